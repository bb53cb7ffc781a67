"""`make bench-fairness`: what one adapter at ten times its share costs the others, over HTTP, on a fake engine.

The engine takes so long for a word, and there are so few slots, that all adapters compete for slots. Each of the others
offers 95% of its share of them, at random times, without the flood and with it by turns. Prints a JSON line: the 95th
percentile of the time that the others' requests take from due to answered, as the median over rounds.
"""

import json
import random
import statistics
import sys
from collections.abc import Iterator

import httpx
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.client import Due, Sent, encode, percentile, send_all
from loadtest.process import fake_service

_HOT, _LOAD = "shapes", 0.95
_FULL = 128  # requests sent at once to measure the capacity


class Fairness(BaseSettings):
    """Flood one adapter of several and print what the others' requests take without and with it."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.service.fairness"
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
        quiet = {name: _LOAD * share for name in names if name != _HOT}
        runs = [
            (_others(url, quiet, options, number), _others(url, quiet | {_HOT: options.flood * share}, options, number))
            for number in range(options.rounds)
        ]
    without, with_ = (statistics.median(map(_p95_ms, each)) for each in zip(*runs, strict=True))
    result = {"adapters": len(names), "slots": options.slots, "capacity": round(capacity, 1)}
    result |= {"p95_ms_without": round(without, 1), "p95_ms_with": round(with_, 1), "ratio": round(with_ / without, 2)}
    errors = sum(each.status != 200 for pair in runs for run in pair for each in run)
    print(json.dumps({"bench": "fairness", **result, "requests": sum(len(run) for _, run in runs), "errors": errors}))
    return 0


def _others(url: str, rates: dict[str, float], options: Fairness, seed: int) -> list[Sent]:
    """The outcomes of all requests but the flood's; `rates` are requests per second by adapter."""
    return [each for each in send_all(url, _arrivals(url, rates, options.seconds, seed)) if each.flow != _HOT]


def _capacity(url: str, names: list[str]) -> float:
    """Requests per second that the service answers with _FULL requests at once."""
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
