"""An OpenAI-compatible vision endpoint, this project's service among them: a picture and a text -> what it says.

A busy or unreachable endpoint is asked again, later and later; only what it says of a request is a verdict on that.
"""

import logging
import random
import threading
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

import httpx

from trainer.config.data import EndpointOptions
from trainer.errors import OptionError

log = logging.getLogger(__name__)

# Not now, as HTTP says it; and not with this key, or not here.
_LATER, _NEVER = (408, 409, 425, 429, 500, 502, 503, 504), (401, 403, 404, 405)
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, and what was paid for it; `fault` says why there is none. Tokens are 0 where none are told."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    fault: str = ""


class Pace:
    """No more than so many requests a minute, of all threads together."""

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


class VisionEndpoint:
    """Connections to the endpoint that the options name; threads may share one."""

    def __init__(self, options: EndpointOptions, transport: httpx.BaseTransport | None = None) -> None:
        headers = {"Authorization": f"Bearer {options.key.get_secret_value()}"} if options.key else {}
        self._options = options
        self._url = options.url.rstrip("/")
        self._client = httpx.Client(headers=headers, timeout=300, transport=transport)
        self._pace = Pace(options.per_minute)

    def close(self) -> None:
        """Close the connections to the endpoint."""
        self._client.close()

    def ask(self, picture: str, text: str, temperature: float) -> Said:
        """Ask about a picture, given as a data URL.

        Raises:
            OptionError: the endpoint refuses this user or model, or was not to be reached for --patience-s.
        """
        content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": text}]
        body = {
            "model": self._options.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self._options.max_tokens,
            "temperature": temperature,
        }
        began, tries = monotonic(), 0
        while True:
            self._pace.wait()
            why, wait = "", 0.0
            try:
                response = self._client.post(f"{self._url}/chat/completions", json=body)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise OptionError(f"--url {self._url}: {error}: give it as http://host:port/v1") from error
            except httpx.HTTPError as error:
                why = f"{type(error).__name__}: {error}"
            else:
                if response.status_code not in _LATER:
                    return self._said(response)
                why, wait = f"status {response.status_code}: {_message(response)}", _retry_after(response)
            tries += 1
            # Half of the wait at random, so that threads refused together do not come back together.
            wait = max(wait, min(_LONGEST_WAIT_S, 0.5 * 2**tries) * random.uniform(0.5, 1))
            if monotonic() + wait - began > self._options.patience_s:
                raise OptionError(
                    f"--url {self._url}: no answer for --patience-s {self._options.patience_s:g} ({why}): what was"
                    " answered before is kept, and the same command goes on from there"
                )
            log.info("%s is asked again in %.0f s: %s", self._url, wait, why)
            sleep(wait)

    def _said(self, response: httpx.Response) -> Said:
        status = response.status_code
        if status in _NEVER:
            raise OptionError(
                f"--url {self._url}: status {status}: {_message(response)}: look at --url, --model, --key"
            )
        if status >= 400:
            return Said("", fault=f"refused with status {status}: {_message(response)}")
        try:
            answer: Any = response.json()
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            text = str(choice["message"]["content"] or "").strip()
            tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise OptionError(f"--url {self._url}: the answer is no chat completion: {error!r}") from error
        if choice.get("finish_reason") == "length":
            return Said("", *tokens, fault=f"cut off at --max-tokens {self._options.max_tokens}")
        return Said(text, *tokens, fault="" if text else "empty")


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
