"""Figures of an adapter from all replicas of one store, added up; changes of aliases that are as they were seen."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx

from service.canary.rules import Seen, VersionCounts

T = TypeVar("T")

_TIMEOUT_S = 30.0
# Statuses after which the same request may succeed in a moment.
_BUSY = frozenset({408, 429, 500, 502, 503, 504})


class Away(Exception):
    """A replica gave no answer, or was busy, at each of the tries."""


class Refused(Exception):
    """A replica refused a request, and would again: the key may not do this, or there is no such name."""


class Changed(Exception):
    """The aliases were changed since they were seen."""


@dataclass(frozen=True)
class Canary:
    """One canary as it was seen: both versions, their figures, its share (`weight`), and the ETag of the aliases."""

    adapter: str
    version: str
    stable: str
    weight: float
    since: datetime | None
    tag: str
    seen: Seen


class Replicas:
    """A client of the replicas of one store; a request to one that is away is tried again, 1, 2, 4 ... s later."""

    def __init__(
        self, urls: tuple[str, ...], key: str | None, tries: int, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.urls, self._tries, self._sleep = tuple(url.rstrip("/") for url in urls), tries, sleep
        self._client = httpx.Client(headers=headers, timeout=_TIMEOUT_S)

    def names(self, alias: str) -> list[str]:
        """The adapters that share questions out to an alias, as the first replica that answers lists them.

        Raises:
            Away: none answers.
            Refused: the key may not list adapters.
        """
        return list(self._first(lambda url: list(self._listed(url, alias))))

    def canary(self, adapter: str, alias: str) -> Canary | None:
        """An adapter's canary over all replicas; None where the alias has no share.

        Raises:
            Away: none answers.
            Refused: there is no such adapter, or the key may not see its figures.
        """
        shown, away = dict[str, tuple[dict[str, Any], str]](), list[str]()
        for url in self.urls:
            try:
                response = self._request("GET", url, f"/v1/adapters/{adapter}")
                shown[url] = response.json(), response.headers["etag"]
            except Away as error:
                away.append(str(error))
        if not shown:
            raise Away("; ".join(away))
        detail, tag = max(shown.values(), key=lambda each: each[0]["since"] or "")
        named = detail["aliases"].get(alias)
        if named is None or not named["weight"]:
            return None
        behind = [url for url, each in shown.items() if each[1] != tag or _other(each[0], alias)]
        why = [*away, *(f"{url} does not serve what the aliases say yet" for url in behind)]
        told = [each for url, (each, _) in shown.items() if url not in behind]
        since = datetime.fromisoformat(detail["since"]) if detail["since"] else None
        hours = (datetime.now(UTC) - since).total_seconds() / 3600 if since else None
        version, stable = named["version"], detail["aliases"]["stable"]["version"]
        seen = Seen(together(told, version), together(told, stable), hours, version == stable, "; ".join(why) or None)
        return Canary(adapter, version, stable, named["weight"], since, tag, seen)

    def change(self, adapter: str, change: dict[str, Any], tag: str) -> str:
        """Change an alias if the aliases still have this tag; returns their new one.

        Raises:
            Changed: they have another.
            Away: no replica takes it now.
            Refused: none will.
        """
        path, headers = f"/v1/adapters/{adapter}", {"if-match": tag}
        return self._first(lambda url: self._request("PUT", url, path, change, headers).headers["etag"])

    def undo(self, adapter: str, change: dict[str, Any]) -> str:
        """A shell command (curl) that makes a change; the watcher prints it to undo its own."""
        key = '-H "authorization: Bearer $CANARY_KEY" ' if "authorization" in self._client.headers else ""
        url = f"{self.urls[0]}/v1/adapters/{adapter}"
        return f"curl -fsS -X PUT {key}-H 'content-type: application/json' -d '{json.dumps(change)}' {url}"

    def _listed(self, url: str, alias: str) -> Iterator[str]:
        after: str | None = ""
        while after is not None:
            page = self._request("GET", url, "/v1/adapters", parameters={"after": after}).json()
            yield from (each["name"] for each in page["adapters"] if each["weights"].get(alias))
            after = page["next"]

    def _first(self, call: Callable[[str], T]) -> T:
        """What `call` returns for the first replica's URL that is not away."""
        away = list[str]()
        for url in self.urls:
            try:
                return call(url)
            except Away as error:
                away.append(str(error))
        raise Away("; ".join(away))

    def _request(
        self,
        method: str,
        url: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, str] | None = None,
    ) -> httpx.Response:
        said = ""
        for attempt in range(self._tries):
            if attempt:
                self._sleep(2.0 ** (attempt - 1))
            try:
                response = self._client.request(method, f"{url}{path}", json=body, headers=headers, params=parameters)
            except httpx.TransportError as error:
                said = str(error) or type(error).__name__
                continue
            if response.status_code == 412:
                raise Changed(_message(response))
            if response.is_success:
                return response
            said = _message(response)
            if response.status_code not in _BUSY:
                raise Refused(f"{url}: {said}")
        raise Away(f"{url} is away: {said}")


def together(details: list[dict[str, Any]], version: str) -> VersionCounts:
    """One version's figures over all replicas, from their answers to GET /v1/adapters/NAME.

    Questions are added up over replicas; feedback over directories, since replicas with one directory show the same.
    """
    total = VersionCounts()
    feedback = dict[str, tuple[int, int]]()
    for detail in details:
        online = next((each["online"] for each in detail["versions"] if each["version"] == version), None)
        if online is None:
            continue
        total.answered += online["answered"]
        total.failed += online["failed"]
        for upper, count in online["seconds"].items():
            total.seconds[float(upper)] = total.seconds.get(float(upper), 0) + count
        if (directory := detail["kept_in"]) is not None:
            told = online["right"], online["wrong"]
            feedback[directory] = max(feedback.get(directory, (0, 0)), told, key=sum)
    total.right = sum(right for right, _ in feedback.values())
    total.wrong = sum(wrong for _, wrong in feedback.values())
    return total


def _other(detail: dict[str, Any], alias: str) -> bool:
    """Whether a replica still answers with another version than the alias leads to, while it proves the new one."""
    named = [detail["aliases"].get(name) for name in (alias, "stable")]
    return any(each is None or each["serving"] != each["version"] for each in named)


def _message(response: httpx.Response) -> str:
    try:
        return f"{response.status_code}: {response.json()['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code}: {response.text[:200]}"
