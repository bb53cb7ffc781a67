"""`trainer sweep`: a training for each combination of settings, each in a process of its own, then one report of all.

    runs/NAME/rank-16_seed-0.yaml    a training's options, as `train --config` reads them
                       …_seed-0/     its run
                       …_seed-0.log  what it said
                       …_seed-0.json that it has ended, and how long it took
              sweep.html, sweep.json what was found

A sweep that was stopped goes on: a training that has ended is kept, one that was cut off is resumed.
"""

import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import torch

from trainer.config.evaluation import EvaluateOptions
from trainer.config.file import write_options
from trainer.config.sweep import SweepOptions, combinations, training
from trainer.config.training import TrainOptions
from trainer.data.forms.reading import Reading
from trainer.data.pages.pictures import logged
from trainer.data.row import Row, per_question
from trainer.data.split import read_sets, sample
from trainer.disk import check_folder
from trainer.errors import TrainerError
from trainer.evaluation.in_process import ask_checkpoint
from trainer.evaluation.report.sweep import write_sweep
from trainer.evaluation.settings import Setting, Standing, standings
from trainer.training.run import LEARNT, LOG, is_run

log = logging.getLogger(__name__)

_NAMED = re.compile(r"[^A-Za-z0-9.+-]+")
# Lines at the end of a training's log that the error shows where it failed.
_TOLD = 5


@dataclass(frozen=True)
class _Training:
    """One of a sweep: which combination and seed, and where it lies."""

    values: dict[str, str]
    options: TrainOptions
    place: Path

    @property
    def ended(self) -> Path:
        """The file whose presence says that a run of the sweep ended well."""
        return self.place.with_name(f"{self.place.name}.json")


def sweep(options: SweepOptions) -> list[Standing]:
    """Train all that has not been trained yet, ask each adapter the same held-out rows, and write the report.

    Raises:
        OptionError: an option or value that no training takes.
        TrainerError: a training failed; its log is named.
    """
    folder = options.output or Path("runs") / options.name
    trainings = _trainings(options, folder)
    check_folder("--output", folder)
    folder.mkdir(parents=True, exist_ok=True)
    _train_all(trainings, options.at_once)
    rows = per_question(_held_out(options))
    found = standings(_asked(options, trainings, rows), rows)
    write_sweep(folder, found, rows)
    log.info("the report is %s", folder / "sweep.html")
    return found


def _trainings(options: SweepOptions, folder: Path) -> list[_Training]:
    found = []
    for values in combinations(options):
        for seed in range(options.seed, options.seed + options.seeds):
            named = "_".join(f"{name}-{value}" for name, value in {**values, "seed": str(seed)}.items())
            place = folder / _NAMED.sub("-", named)
            kept = {"name": options.name, "seed": seed, "output": place, "store": folder / "store"}
            found.append(_Training(values, training(options, values, **kept), place))
    return found


def _train_all(trainings: Sequence[_Training], at_once: int) -> None:
    left = [each for each in trainings if not _has_ended(each)]
    log.info("%d trainings, %d of them ended before", len(trainings), len(trainings) - len(left))
    began, done = time.monotonic(), 0
    devices: SimpleQueue[int] = SimpleQueue()
    for number in range(at_once):
        devices.put(number % max(1, torch.cuda.device_count()))
    # Processes are stopped before the pool waits for its threads: a sweep that fails or is interrupted ends at once.
    with ThreadPoolExecutor(at_once) as pool, _processes() as running:
        for each in pool.map(lambda one: _train(one, devices, running), left):
            done += 1
            each_s = (time.monotonic() - began) / done
            log.info("%d of %d: %s; about %.0f min left", done, len(left), each, each_s * (len(left) - done) / 60)


def _has_ended(each: _Training) -> bool:
    """Whether a training with these very options has ended."""
    try:
        return bool(json.loads(each.ended.read_text())["options"] == _written(each))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _written(each: _Training) -> dict[str, object]:
    return each.options.model_dump(mode="json")


def _train(each: _Training, devices: "SimpleQueue[int]", running: "list[subprocess.Popen[bytes]]") -> str:
    """Train one in a process; returns a line about it."""
    file, said = each.place.with_name(f"{each.place.name}.yaml"), each.place.with_name(f"{each.place.name}.log")
    write_options(each.options, file)
    words = ["train", "--config", str(file), *(["--resume"] if is_run(each.place) else [])]
    device, began = devices.get(), time.monotonic()
    with said.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer", *words],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | ({"CUDA_VISIBLE_DEVICES": str(device)} if torch.cuda.is_available() else {}),
        )
        running.append(process)
        status = process.wait()
    devices.put(device)
    # An adapter that is no better than its base is not published, and is a result as any other.
    if status != 0 and not (each.place / LEARNT).is_dir():
        last = "\n".join(said.read_text(errors="replace").splitlines()[-_TOLD:])
        raise TrainerError(f"{each.place.name}: its training failed; {said} ends:\n{last}")
    seconds = time.monotonic() - began
    each.ended.write_text(json.dumps({"seconds": round(seconds, 1), "options": _written(each)}, indent=1) + "\n")
    return f"{each.place.name} in {seconds:.0f} s"


@contextmanager
def _processes() -> "Iterator[list[subprocess.Popen[bytes]]]":
    """A list of processes that are stopped, and waited for, when the block ends."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        yield running
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _held_out(options: SweepOptions) -> list[Row]:
    assert options.eval_data is not None
    rows = read_sets([(options.eval_data, options.images[0])], Reading.of(options))
    return sample(rows, options.score_rows, options.seed)


def _asked(options: SweepOptions, trainings: Sequence[_Training], rows: Sequence[Row]) -> list[Setting]:
    """The answers, seconds and losses of each combination's trainings."""
    named = [str(each.place) for each in trainings]
    asks = EvaluateOptions(adapter=named, data=str(options.eval_data), max_tokens=options.max_tokens, blind_rows=0)
    answers = {each.adapter: each.answers for each in ask_checkpoint(options.model, asks, rows)}
    found = []
    for values in combinations(options):
        of = [each for each in trainings if each.values == values]
        seconds = sum(json.loads(each.ended.read_text())["seconds"] for each in of) / len(of)
        series = [logged(each.place / LOG, "eval_loss") for each in of]
        losses = tuple(min(losses.values()) for losses in series if losses)
        found.append(Setting(values, tuple(answers[each.place.name] for each in of), seconds, losses))
    return found
