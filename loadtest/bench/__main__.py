"""`make bench`: Manylens side by side with stock `vllm serve`, a server written by hand, and the engine in process.

All are asked the same about the same pictures by the same client, one after the other, round after round; the processes
of the others are paused meanwhile. Writes a JSON line for each case to --output and prints its goals with what was
reached: the median over rounds, the least and the most. A table and a picture of them lie beside it. `--case
'["small-16"]'` runs one.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.bench import gateway
from loadtest.bench.cases import Case, cases
from loadtest.bench.peers import Peers, Setting
from loadtest.bench.picture import draw
from loadtest.bench.results import Figures, figures, line, reached, table, told
from loadtest.servers import folder_of_measurement
from loadtest.store.manystore import copy_here
from service.engine.sizing import Shape
from service.environment import without_avx512

# Questions whose answers are compared between sides, before time is taken; every adapter in use is asked once.
_COMPARED = 8


class Bench(BaseSettings):
    """Compare Manylens with what people would use instead; print goals and results."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.bench"
    )

    case: list[str] = Field([], description="cases to run, as JSON [all]; a name that there is not lists them")
    rounds: int = Field(5, gt=0, description="times that each side is asked, in turn")
    seconds: float = Field(4.0, gt=0, description="how long each time; twice as long where answers are slow")
    warm_s: float = Field(1.0, ge=0, description="seconds before that, which do not count")
    model: str = Field(
        "models/tiny-llava-int4", description="checkpoint of ours, of stock and of the engine in process"
    )
    peer_model: str = Field("models/tiny-llava", description="the same for transformers, in bfloat16")
    dtype: str | None = Field(None, description="of vLLM's activations on every side, as float32 [the checkpoint's]")
    adapters: Path = Field(Path("models/adapters"), description="store with the adapter that all are copies of")
    adapter: str = Field("shapes", description="its name there")
    gpu_share: float | None = Field(None, gt=0, le=1, description="share of a GPU that each server may take")
    output: Path = Field(Path("build/bench.jsonl"), description="where the JSON lines go; those of this run are added")
    port: int = Field(8400, gt=0, description="first of the ports of the servers started")


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit status: 1 where a goal was missed, 2 for a case or a model that cannot be."""
    options = CliApp.run(Bench, cli_args=arguments)
    known = cases(options.model)
    names = [*(case.name for case in known), gateway.NAME]
    if unknown := sorted(set(options.case) - set(names)):
        print(f"--case: there is no {', '.join(unknown)}: there are {', '.join(names)}", file=sys.stderr)
        return 2
    chosen, began = [case for case in known if case.name in (options.case or names)], time.monotonic()
    with_stock = any(side.server.startswith("stock") for case in chosen for side in case.sides)
    if with_stock and without_avx512() and Shape.of_checkpoint(Path(options.model)).packed:
        print(
            "--model: vLLM has no INT4 product for this processor, which lacks AVX-512, so stock cannot serve it: "
            "compare on the same checkpoint in float32 by --model models/tiny-llava --dtype float32",
            file=sys.stderr,
        )
        return 2
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = list[dict[str, Any]]()
    with (
        folder_of_measurement() as folder,
        _peers(options, Path(folder)) as peers,
    ):
        for number, case in enumerate(chosen):
            _tell(f"{case.name}: case {number + 1} of {len(chosen)}, {time.monotonic() - began:.0f} s so far")
            lines.append(_report(options, _run(peers, case, options)))
            peers.stop_all_but({side.server for later in chosen[number + 1 :] for side in later.sides})
    if gateway.NAME in (options.case or names):
        lines.append(_report(options, gateway.measure(options.rounds, options.seconds, options.port)))
    draw(lines, options.output.with_suffix(".png"))
    options.output.with_suffix(".md").write_text(table(lines))
    missed = sum(not goal["reached"] for line in lines for goal in line["goals"])
    _tell(f"done after {time.monotonic() - began:.0f} s: {missed} goals missed; lines are in {options.output}")
    return int(missed > 0)


def _peers(options: Bench, folder: Path) -> Peers:
    source = copy_here(options.adapters, options.adapter, folder)
    setting = Setting(options.model, options.peer_model, source, folder, options.gpu_share, options.dtype)
    return Peers(setting, options.port, _tell)


def _run(peers: Peers, case: Case, options: Bench) -> dict[str, Any]:
    """A case's line: each side's figures, the goals, how many answers were alike, and statuses other than 200."""
    said, memory, errors = dict[str, list[str]](), Counter[str](), Counter[str]()
    for side in case.sides:
        with peers.alone(side.server) as peer:
            said[side.name] = peer.ask(side, range(_COMPARED))
            peer.measure(side, case.clients, 0.0, options.seconds / 2)
    rounds = list[dict[str, Figures]]()
    for number in range(options.rounds):
        found = dict[str, Figures]()
        # The order is reversed in every other round.
        for side in case.sides if number % 2 == 0 else case.sides[::-1]:
            with peers.alone(side.server) as peer:
                window, cpu = peer.measure(side, case.clients, options.warm_s, options.seconds * (1 + side.slow))
                memory[side.name] = max(memory[side.name], peer.server.memory() // 1_000_000)
            found[side.name] = figures(window, cpu)
            errors.update(f"{side.name}: {status}" for status in window.statuses if status != 200)
        rounds.append(found)
    heard = [answers for answers in said.values() if answers]
    alike = sum(len(set(each)) == 1 for each in zip(*heard, strict=True))
    return line(
        case.name, rounds, [reached(goal, rounds) for goal in case.goals], clients=case.clients,
        rounds=options.rounds, seconds=options.seconds, answers_alike=f"{alike} of {len(heard[0])}",
        errors=dict(errors), memory_mb=dict(memory),
    )  # fmt: skip


def _report(options: Bench, line: dict[str, Any]) -> dict[str, Any]:
    """Write the line, print its goals, and return it."""
    with options.output.open("a") as file:
        file.write(json.dumps(line) + "\n")
    for name, found in line["sides"].items():
        _tell(f"    {name}: " + ", ".join(f"{figure} {value:g}" for figure, value in found.items()))
    for goal in line["goals"]:
        print(f"{line['case']:14} {told(goal)}", flush=True)
    for fault in line.get("errors", {}).items():
        print(f"{line['case']:14} answers that were not 200: {fault}", flush=True)
    return line


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
