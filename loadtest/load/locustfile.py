"""For exploring by hand with Locust: the scenarios as tasks of a user, who asks, waits up to 0.2 s, and asks again.

    make explore                                  # web page at http://127.0.0.1:8089, asks http://127.0.0.1:8000
    locust -f loadtest/load/locustfile.py --host http://127.0.0.1:8000 --headless -u 16 -t 30s --tags small ten

Its latencies are of a closed loop in a slow client: for figures use `make bench-load`.
"""

import itertools
import random

from locust import FastHttpUser, between, tag, task

from loadtest.load.scenarios import scenarios

_SCENARIOS = scenarios(("shapes", "digits"))
_numbers = itertools.count(random.randrange(1 << 20))


class Caller(FastHttpUser):
    """A user that asks questions of the scenarios, drawn by their tasks' weights."""

    wait_time = between(0.0, 0.2)

    @tag("small")
    @task(8)
    def small(self) -> None:
        """One small picture, the base."""
        self._ask("small")

    @tag("adapters")
    @task(8)
    def adapters(self) -> None:
        """One small picture through an adapter."""
        self._ask("adapters-1")

    @tag("photo")
    @task(1)
    def photo(self) -> None:
        """A 12-megapixel JPEG as a form."""
        self._ask("photo-form")

    @tag("ten")
    @task(1)
    def ten(self) -> None:
        """Ten questions about one picture."""
        self._ask("ten")

    @tag("text")
    @task(2)
    def text(self) -> None:
        """A question without a picture."""
        self._ask("text")

    @tag("stream")
    @task(2)
    def stream(self) -> None:
        """One small picture, the answer streamed."""
        self._ask("stream")

    def _ask(self, name: str) -> None:
        content = _SCENARIOS[name].make(next(_numbers), random.Random()).content
        head, _, body = content.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if not line.startswith(("host", "content-length")))
        self.client.post(first.split()[1], data=body, headers=headers, name=name)
