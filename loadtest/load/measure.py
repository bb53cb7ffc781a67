"""An open loop: requests are sent at random times at a given rate, however slow the answers are; and its results."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from loadtest.client import Due, Sent, exchange_all, keep_asking, percentile, send_all
from loadtest.load.scenarios import Scenario
from loadtest.servers import Server, cpu_s

_PERCENTS = (50, 95, 99)
# Clients by which a service's capacity is found, and the least time for it, in seconds.
_FULL, _LEAST_S = 16, 3.0


def capacity(url: str, scenario: Scenario, seconds: float) -> float:
    """Requests per second that are answered to 16 clients in a closed loop, over `seconds` after half as many.

    At least one in two seconds is told, also of a service that takes longer than that for an answer.

    Raises:
        RuntimeError: all that was answered were errors.
    """
    numbers, dice = iter(range(1_000_000, 2_000_000)), random.Random(0)
    seconds = max(_LEAST_S, seconds)
    window = keep_asking(url, _FULL, lambda: (scenario.make(next(numbers), dice).content,), seconds / 2, seconds)
    good = sum(status == 200 for status in window.statuses)
    if window.statuses and not good:
        raise RuntimeError(f"{scenario.name}: no answer but errors, by status: {dict(Counter(window.statuses))}")
    return max(0.5, good / seconds)


def ask_first(url: str, scenario: Scenario) -> dict[str, float]:
    """Send a scenario's `first` requests one after the other; returns their median time in ms, if there are any."""
    took = list[float]()
    for content in tqdm(scenario.first, desc=f"{scenario.name}: first asked", disable=len(scenario.first) < 10):
        began = time.perf_counter()
        exchange_all(url, [content])
        took.append(1000 * (time.perf_counter() - began))
    return {"first_asked_p50_ms": round(percentile(sorted(took), 50), 1)} if took else {}


def arrivals(scenario: Scenario, rate: float, seconds: float, seed: int) -> Iterator[Due]:
    """A Poisson process: intervals are exponential, of mean 1/rate seconds. A request is made when it is sent."""
    dice, at, number = random.Random(seed), 0.0, seed * 100_000
    while (at := at + dice.expovariate(rate)) < seconds:
        asked, number = scenario.make(number, dice), number + 1
        yield Due(at, asked.flow, asked.content)


def measure(
    url: str, scenario: Scenario, rate: float, seconds: float, seed: int = 1, server: Server | None = None
) -> dict[str, Any]:
    """The results of a scenario at `rate` requests per second for `seconds`; with `server`, its CPU and memory too."""
    pids = server.pids() if server else []
    if server:
        server.forget_peak()
    before = cpu_s(pids)
    sent = send_all(url, arrivals(scenario, rate, seconds, seed))
    used = cpu_s(pids) - before
    found = summary(sent, seconds, scenario.bound_s)
    if server:
        found |= {"cpu_s_per_request": round(used / max(1, len(sent)), 4), "peak_mb": server.peak() // 1_000_000}
    return {"scenario": scenario.name, "rate": round(rate, 2), "seconds": seconds, **found}


def summary(sent: Sequence[Sent], seconds: float, bound_s: float) -> dict[str, Any]:
    """Throughput and goodput in requests a second, latencies in milliseconds from due to answered, errors by code.

    Goodput counts answers within `bound_s`. Of streams there are also the time to the first token and the time for
    each token after it.
    """
    good = [each for each in sent if each.status == 200]
    streams = [each for each in good if each.tokens]
    return {
        "requests": len(sent),
        "throughput": round(len(good) / max(seconds, *(each.at + each.seconds for each in sent)), 2),
        "bound_s": bound_s,
        "goodput": round(sum(each.seconds <= bound_s for each in good) / seconds, 2),
        **_percentiles("", good, lambda each: each.seconds),
        **_percentiles("first_token_", streams, lambda each: each.first),
        **_percentiles(
            "token_", [each for each in streams if each.tokens > 1],
            lambda each: (each.last - each.first) / (each.tokens - 1),
        ),
        "errors": dict(Counter(str(each.status) for each in sent if each.status != 200)),
    }  # fmt: skip


def _percentiles(prefix: str, sent: Sequence[Sent], seconds: Callable[[Sent], float]) -> dict[str, float]:
    took = sorted(1000 * seconds(each) for each in sent)
    return {f"{prefix}p{percent}_ms": round(percentile(took, percent), 1) for percent in _PERCENTS} if took else {}
