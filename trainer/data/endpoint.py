"""Messages -> the answer of an OpenAI-compatible endpoint, such as this project's service.

A busy or unreachable endpoint is asked again after waits that grow. A request that it refuses is not sent again.
"""

import logging
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

import httpx
from pydantic import SecretStr

from trainer.errors import OptionError

log = logging.getLogger(__name__)

# Statuses of HTTP after which the same request may succeed later; and those by which URL, model or key is wrong.
_LATER, _NEVER = (408, 409, 425, 429, 500, 502, 503, 504), (401, 403, 404, 405)
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Access:
    """Where an endpoint is and how it is asked; `option` is what a command line calls its URL.

    A request without an answer is tried for `patience_s` seconds; the error that ends this has the words `away` at its
    end. `per_minute` bounds the requests a minute. Without `max_tokens` the endpoint decides how long an answer may be.
    """

    url: str
    model: str
    key: SecretStr | None
    option: str = "--url"
    away: str = ""
    patience_s: float = 600
    per_minute: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer and the tokens that it took, 0 where the endpoint does not tell; `fault` says why `text` is empty."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    fault: str = ""


class Pace:
    """Spaces requests evenly, of all threads together, `per_minute` of them at most; None: no limit."""

    def __init__(self, per_minute: float | None) -> None:
        self._between = 60 / per_minute if per_minute else 0.0
        self._next = monotonic()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Wait until the next request may be sent (--per-minute); returns at once where no rate is set."""
        if not self._between:
            return
        with self._lock:
            now = monotonic()
            at = max(self._next, now)
            self._next = at + self._between
        sleep(max(0.0, at - now))


class Endpoint:
    """Connections to an endpoint; threads may share one."""

    def __init__(self, access: Access, transport: httpx.BaseTransport | None = None) -> None:
        headers = {"Authorization": f"Bearer {access.key.get_secret_value()}"} if access.key else {}
        self._access = access
        self._url = access.url.rstrip("/")
        self._named = f"{access.option} {self._url}"
        self._client = httpx.Client(headers=headers, timeout=300, transport=transport)
        self._pace = Pace(access.per_minute)

    def close(self) -> None:
        """Close the connections to the endpoint."""
        self._client.close()

    def ask(self, messages: Sequence[dict[str, Any]], temperature: float) -> Completion:
        """The answer to messages in OpenAI's form; of a request that was refused or cut off only its `fault`.

        Raises:
            OptionError: the URL is none, the endpoint refuses this key or model, answers in another form than OpenAI's,
                or gave no answer for `patience_s`.
        """
        body = {"model": self._access.model, "messages": messages, "temperature": temperature}
        body |= {"max_tokens": self._access.max_tokens} if self._access.max_tokens else {}
        began, tries = monotonic(), 0
        while True:
            self._pace.wait()
            why, wait = "", 0.0
            try:
                response = self._client.post(f"{self._url}/chat/completions", json=body)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise OptionError(f"{self._named}: {error}: give it as http://host:port/v1") from error
            except httpx.HTTPError as error:
                why = f"{type(error).__name__}: {error}"
            else:
                if response.status_code not in _LATER:
                    return self._said(response)
                why, wait = f"status {response.status_code}: {_message(response)}", _retry_after(response)
            tries += 1
            # Half of the wait at random, so that threads refused together do not come back together.
            wait = max(wait, min(_LONGEST_WAIT_S, 0.5 * 2**tries) * random.uniform(0.5, 1))
            if monotonic() + wait - began > self._access.patience_s:
                raise OptionError(
                    f"{self._named}: no answer for {self._access.patience_s:g} s ({why}){self._access.away}"
                )
            log.info("%s is asked again in %.0f s: %s", self._url, wait, why)
            sleep(wait)

    def _said(self, response: httpx.Response) -> Completion:
        status = response.status_code
        if status in _NEVER:
            raise OptionError(
                f"{self._named}: status {status}: {_message(response)}: look at it, its model and its key"
            )
        if status >= 400:
            return Completion("", fault=f"refused with status {status}: {_message(response)}")
        try:
            answer: Any = response.json()
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            text = str(choice["message"]["content"] or "").strip()
            tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise OptionError(f"{self._named}: the answer is no chat completion: {error!r}") from error
        if choice.get("finish_reason") == "length":
            return Completion("", *tokens, fault=f"cut off at --max-tokens {self._access.max_tokens or tokens[1]}")
        return Completion(text, *tokens, fault="" if text else "empty")


def _message(response: httpx.Response) -> str:
    try:
        error: Any = response.json()["error"]
        return f"{error['message'] if isinstance(error, dict) else error}"[:200]
    except (ValueError, KeyError, TypeError):
        return " ".join(response.text.split())[:200]


def _retry_after(response: httpx.Response) -> float:
    try:
        return min(float(response.headers.get("retry-after", 0)), 10 * _LONGEST_WAIT_S)
    except ValueError:  # a date, which is what hardly any of them send
        return 0.0
