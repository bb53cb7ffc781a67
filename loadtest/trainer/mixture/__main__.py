"""`make bench-mixture`: six ways to learn from pictures and from text, at about as many trained parameters.

Six ways to learn the set of rows.py are trained with the same rows, updates and rate, several seeds of each, and asked
the same held-out rows; then a mixture and a plain LoRA are served and asked in turn. Prints a JSON line a training, and
a table.
"""

import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.trainer.mixture.one import CASES, Case, Found, Place, Right, scored, train_and_score
from loadtest.trainer.mixture.rows import make_base, write_set
from loadtest.trainer.mixture.served import Cost, costs


class Bench(BaseSettings):
    """Train and compare."""

    model_config = SettingsConfigDict(
        frozen=True, cli_kebab_case=True, cli_prog_name="python -m loadtest.trainer.mixture"
    )

    model: str = Field("models/tiny-llava", description="what the base is made of")
    pictures: Path = Field(Path("build/data/shapes"), description="easy-VQA's rows, as `make` writes them")
    work: Path = Field(Path("build/mixture"), description="where the set, the base and the runs are kept")
    seeds: list[int] = Field([0, 1, 2], description="one training of each case with each")
    cases: list[Case] = Field(list(CASES), description="which cases")
    rows: int = Field(500, gt=0, description="training rows of each kind")
    epochs: float = Field(5.0, gt=0, description="passes over them")
    rounds: int = Field(9, ge=0, description="rounds in which a mixture and a LoRA are served and asked; 0: none")
    port: int = Field(8198, description="port of the service started")


def main(options: Bench) -> None:
    """Train what is not there yet, each in a process of its own, serve, and print the table."""
    write_set(options.work, options.pictures, options.rows)
    # Each training's process is forked from one that has imported all modules.
    forked = get_context("forkserver")
    forked.set_forkserver_preload(["loadtest.trainer.mixture.one", "loadtest.trainer.mixture.rows"])
    with ProcessPoolExecutor(1, mp_context=forked, max_tasks_per_child=1) as processes:
        made = processes.submit(make_base, options.model, options.work).result()
        place = Place(options.work, options.pictures, made, options.epochs)
        base = Right(**_kept(options.work / "base.json", lambda: processes.submit(scored, place, None).result()))
        found = list[Found]()
        for seed, case in product(options.seeds, options.cases):
            file = options.work / f"{case}-{seed}.json"
            line = _kept(file, partial(_one, processes, place, case, seed))
            found.append(Found(**{**line, "right": Right(**line["right"])}))
            print(json.dumps(line), flush=True)
    told = table(base, found)
    if options.rounds and {"lora", "mixture"} <= set(options.cases):
        seed = options.seeds[0]
        told += "\n\n" + costs_table(costs(place, f"lora-{seed}", f"mixture-{seed}", options.rounds, options.port))
    print(told)


def _one(processes: Executor, place: Place, case: Case, seed: int) -> Found:
    return processes.submit(train_and_score, place, case, seed).result()


def _kept(file: Path, find: Callable[[], Found | Right]) -> dict[str, Any]:
    """The result in `file`, of an earlier run, or else that of `find`, which is written there."""
    if not file.exists():
        file.write_text(json.dumps(asdict(find())) + "\n")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def table(base: Right, found: Sequence[Found]) -> str:
    """A line a case: the mean over its seeds, and the lowest and highest."""
    lines = [
        "| case | pictures % | new facts % | old facts % | trained numbers | seconds | peak GB | MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        f"| base | {100 * base.image:.1f} | {100 * base.text:.1f} | {100 * base.old:.1f} | | | | |",
    ]
    columns: list[Callable[[Found], float]] = [
        lambda each: 100 * each.right.image,
        lambda each: 100 * each.right.text,
        lambda each: 100 * each.right.old,
    ]
    for case in CASES:
        if own := [each for each in found if each.case == case]:
            cells = [_span([column(each) for each in own]) for column in columns]
            cells += [f"{own[0].learnt:,}", _span([each.seconds for each in own]), _span([e.peak_gb for e in own], 2)]
            lines.append(f"| {case} | {' | '.join(cells)} | {own[0].megabytes:.2f} |")
    return "\n".join(lines)


def costs_table(found: Sequence[Cost]) -> str:
    """A line a kind of question."""
    lines = ["| served questions | mixture over LoRA | LoRA ms | mixture ms |", "|---|---:|---:|---:|"]
    for each in found:
        spread = f"{each.ratio:.3f} ({each.least:.3f} to {each.most:.3f})"
        lines.append(f"| {each.kind} | {spread} | {each.lora_ms:.1f} | {each.mixture_ms:.1f} |")
    return "\n".join(lines)


def _span(values: Sequence[float], digits: int = 1) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main(CliApp.run(Bench, cli_args=sys.argv[1:]))
