"""`make bench-fairness`: what one adapter at ten times its share costs the others, over HTTP, on a fake engine.

The engine takes so long for a word, and so few requests are worked on at once, that slots are what all compete for. Each
of the others offers 95% of its share of them, at random times, without the flood and with it, in turn; a JSON line.
"""

import json
import random
import statistics
import sys
from collections.abc import Iterator

import httpx
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.client import Due, Sent, encode, fake_service, percentile, send_all

_HOT, _LOAD = "shapes", 0.95
_FULL = 128  # requests at once by which the capacity is measured


class Fairness(BaseSettings):
    """Flood one adapter of several and print what the others' requests take without and with it."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.fairness"
    )

    copies: int = Field(4, gt=0, description="adapters are this many times the repository's two")
    slots: int = Field(4, gt=0, description="requests worked on at once")
    step_s: float = Field(0.025, gt=0, description="seconds that the engine takes for a word")
    flood: float = Field(10.0, gt=0, description="how many times its share the flood offers")
    seconds: float = Field(60.0, gt=0, description="how long, each time")
    rounds: int = Field(2, gt=0, description="times without and with")
    port: int = Field(8197, description="port of the service started")


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit status."""
    options = CliApp.run(Fairness, cli_args=arguments)
    service = ("--in-flight", str(options.slots), "--step-s", str(options.step_s), "--copies", str(options.copies))
    with fake_service(options.port, *service) as url:
        names = sorted(each["name"] for each in httpx.get(f"{url}/v1/adapters").json()["adapters"])
        capacity = _capacity(url, names)
        share = capacity / len(names)
        rates = {name: _LOAD * share for name in names if name != _HOT}
        sent: dict[str, list[list[Sent]]] = {"without": [], "with": []}
        for number in range(options.rounds):
            for case, flood in (("without", 0.0), ("with", options.flood)):
                due = _arrivals(url, rates | {_HOT: flood * share}, options.seconds, number)
                sent[case].append([each for each in send_all(url, due) if each.flow != _HOT])
    took = {case: statistics.median(_p95_ms(each) for each in runs) for case, runs in sent.items()}
    print(
        json.dumps(
            {
                "bench": "fairness",
                "adapters": len(names),
                "slots": options.slots,
                "capacity": round(capacity, 1),
                "requests": sum(map(len, sent["with"])),
                **{f"p95_ms_{case}": round(ms, 1) for case, ms in took.items()},
                "ratio": round(took["with"] / took["without"], 2),
                "errors": sum(each.status != 200 for runs in sent.values() for run in runs for each in run),
            }
        )
    )
    return 0


def _capacity(url: str, names: list[str]) -> float:
    """Requests a second that the service answers when it is full."""
    sent = send_all(url, [Due(0.0, "", _request(url, names[number % len(names)], number)) for number in range(_FULL)])
    return _FULL / max(each.seconds for each in sent)


def _arrivals(url: str, rates: dict[str, float], seconds: float, seed: int) -> list[Due]:
    """The requests of all adapters at random times, in order."""

    def times(name: str, rate: float) -> Iterator[float]:
        draw, at = random.Random(f"{seed} {name}"), 0.0
        while rate and (at := at + draw.expovariate(rate)) < seconds:
            yield at

    arrivals = sorted((at, name) for name, rate in rates.items() for at in times(name, rate))
    return [Due(at, name, _request(url, name, number)) for number, (at, name) in enumerate(arrivals)]


def _request(url: str, adapter: str, number: int) -> bytes:
    body = {"question": f"what is on page {number}?", "adapter": adapter, "max_tokens": 1 + number % 5}
    return encode(httpx.Request("POST", f"{url}/v1/vqa", json=body))


def _p95_ms(sent: list[Sent]) -> float:
    return 1000 * percentile(sorted(each.seconds for each in sent), 95)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
