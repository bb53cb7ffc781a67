"""`make bench-curves`: what a request costs as it grows: clients at once, adapters, picture size, questions.

One service; a closed loop for each point; the points of all curves one after the other, round after round. Writes a
JSON line for each point and a chart of all curves. Adapters have random weights, for speed does not depend on their
values. The length of answers is not varied: the embedded model's have two tokens, and so have these adapters'.
"""

import itertools
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest import faces, pictures
from loadtest.client import keep_asking, percentile
from loadtest.load.scenarios import QUESTIONS
from loadtest.servers import Server, cpu_s, folder_of_measurement, ours
from loadtest.service.size import write_adapter
from service.adapters.modules import CONFIG, WEIGHTS
from service.adapters.store import Store

_CLIENTS, _ADAPTERS, _RANK = 16, 24, 16


@dataclass(frozen=True)
class Point:
    """One point of a curve: `curve` is what grows, `at` its size, `make` the unit that each of `clients` clients sends.

    A unit has `units` answers, and counts as that many.
    """

    curve: str
    at: int
    make: Callable[[int], faces.Unit]
    clients: int = _CLIENTS
    units: int = 1


class Curves(BaseSettings):
    """Measure throughput and latency as requests grow."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.load.curves"
    )

    curve: list[str] = Field([], description="those to measure [all]: clients, adapters, side, questions")
    rounds: int = Field(3, gt=0, description="times that each point is measured, in turn")
    seconds: float = Field(3.0, gt=0, description="how long each time")
    model: str = Field("models/tiny-llava-int4", description="checkpoint to serve")
    output: Path = Field(Path("build/curves.jsonl"), description="where the JSON lines go, and a picture beside them")
    port: int = Field(8430, gt=0, description="port of the service started")


def points() -> list[Point]:
    """Every point of every curve."""

    def adapters(count: int) -> Callable[[int], faces.Unit]:
        return lambda number: faces.vqa(pictures.small(number), f"random-{number % count}", max_tokens=2)

    def side(pixels: int) -> Callable[[int], faces.Unit]:
        return lambda number: faces.form(pictures.photo(number, (pixels, pixels)))

    def questions(count: int) -> Callable[[int], faces.Unit]:
        asked = [f"{question} ({place})" for place, question in zip(range(count), itertools.cycle(QUESTIONS))]
        return lambda number: faces.batch(pictures.small(number), asked)

    def small(number: int) -> faces.Unit:
        return faces.vqa(pictures.small(number))

    return [
        *(Point("clients", count, small, count) for count in (1, 2, 4, 8, 16, 32, 64, 128)),
        *(Point("adapters", count, adapters(count)) for count in (1, 2, 4, 8, 16, _ADAPTERS)),
        *(Point("side", pixels, side(pixels)) for pixels in (336, 672, 1344, 2688, 5376)),
        *(Point("questions", count, questions(count), 2, count) for count in (1, 2, 5, 10, 20, 40)),
    ]


def main(arguments: list[str]) -> int:
    """Measure, print and draw; returns the exit status."""
    options = CliApp.run(Curves, cli_args=arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with folder_of_measurement() as folder:
        _fill(Path(options.model), Path(folder))
        more = ("--adapters-unproven", "true", "--log-level", "warning", "--max-loras", "8")
        with ours(options.port, options.model, f"{folder}/store", *more) as server:
            url = f"http://127.0.0.1:{options.port}"
            chosen = [each for each in points() if each.curve in (options.curve or (each.curve,))]
            lines = _measure(server, url, chosen, options)
    with options.output.open("a") as file:
        for line in lines:
            print(json.dumps(line), flush=True)
            file.write(json.dumps(line) + "\n")
    draw(lines, options.output.with_suffix(".png"))
    return 0


def _fill(model: Path, folder: Path) -> None:
    store = Store(folder / "store")
    for number in range(_ADAPTERS):
        made = folder / "made" / f"random-{number}"
        write_adapter(model, made, _RANK, number)
        store.publish(made.name, {name: (made / name).read_bytes() for name in (CONFIG, WEIGHTS)})


def _measure(server: Server, url: str, chosen: Sequence[Point], options: Curves) -> list[dict[str, Any]]:
    numbers, pids = itertools.count(), server.pids()
    found: dict[Point, list[dict[str, float]]] = {point: [] for point in chosen}
    for number in range(options.rounds):
        for place, point in enumerate(chosen):
            print(
                f"\rround {number + 1} of {options.rounds}, point {place + 1} of {len(chosen)}", end="", file=sys.stderr
            )
            found[point].append(_measured(url, pids, point, numbers, options.seconds))
    print(file=sys.stderr)
    return [_line(point, figures, options) for point, figures in found.items()]


def _measured(url: str, pids: list[int], point: Point, numbers: Iterator[int], seconds: float) -> dict[str, float]:
    """Figures of one point in one round; each request is made from the next of `numbers`."""
    spent = list[float]()
    window = keep_asking(
        url, point.clients, lambda: point.make(next(numbers)), 1.0, seconds, lambda: spent.append(cpu_s(pids))
    )
    good = sum(status == 200 for status in window.statuses) * point.units
    took = sorted(1000 * each for each in window.took) or [float("nan")]
    return {
        "answers_per_s": good / seconds,
        "p50_ms": percentile(took, 50),
        "p95_ms": percentile(took, 95),
        "cpu_ms": 1000 * (spent[1] - spent[0]) / max(1, good),
        "errors": sum(status != 200 for status in window.statuses),
    }


def _line(point: Point, figures: Sequence[dict[str, float]], options: Curves) -> dict[str, Any]:
    rates = [each["answers_per_s"] for each in figures]
    middle = {name: round(statistics.median(each[name] for each in figures), 2) for name in figures[0]}
    return {
        "bench": "curves", "curve": point.curve, "at": point.at, "clients": point.clients, "rounds": options.rounds,
        "load": round(os.getloadavg()[0], 1), **middle, "spread": [round(min(rates), 1), round(max(rates), 1)],
    }  # fmt: skip


_AXES = {
    "clients": "clients at once", "adapters": "adapters in use (8 slots)", "side": "side of the picture, pixels",
    "questions": "questions about one picture",
}  # fmt: skip


def draw(lines: Sequence[dict[str, Any]], file: Path) -> None:
    """A panel for each curve: answers a second, with the least and the most of the rounds."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    curves = [name for name in _AXES if any(line["curve"] == name for line in lines)]
    figure, panels = plt.subplots(1, len(curves), figsize=(2.6 * len(curves), 2.6), layout="constrained", squeeze=False)
    for panel, name in zip(panels[0], curves, strict=True):
        some = [line for line in lines if line["curve"] == name]
        at, rates = [line["at"] for line in some], [line["answers_per_s"] for line in some]
        panel.plot(at, rates, marker="o", markersize=3, color="#2a6f97")
        panel.fill_between(at, *zip(*(line["spread"] for line in some), strict=True), color="#2a6f97", alpha=0.2)
        panel.set_xscale("log", base=2)
        panel.set_xticks(at, [str(each) for each in at], fontsize=6)
        panel.set_ylim(0)
        panel.set_xlabel(_AXES[name], fontsize=7)
        panel.tick_params(labelsize=6)
    panels[0][0].set_ylabel("answers per second", fontsize=7)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
