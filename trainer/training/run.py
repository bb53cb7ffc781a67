"""A training run's directory: whose it is, what it was begun with, and what is there to go on from.

runs/NAME/
  lock                   held while a training writes here; says which process
  run.json               the options and data that the run was begun with: what --resume has to agree with
  options.yaml           all its options, for --config
  log.jsonl              the loss curve, a line a point
  images.txt             the images it is trained on
  reference.npz          of preference training: log-probabilities by the model before it learnt
  checkpoints/           the last complete checkpoint, and the best with --patience
  learnt/                what was trained, once it is whole
  report.html            its scores
  before/                what lay here when the same name was trained afresh

new directory ──begin──▶ checkpoints ──finish──▶ learnt
     ▲                    │      ▲
     └─ afresh: before/ ◀─┘      └── --resume, with the same options and data
"""

import fcntl
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.adapters.base import Base
from service.errors import ServiceError
from trainer.config.file import write_options
from trainer.config.training import LoopOptions
from trainer.data.digests import IMAGES, data_digest
from trainer.data.split import Sides
from trainer.disk import check_folder
from trainer.errors import OptionError, TrainerError
from trainer.processes import this_process
from trainer.training.checkpoints import CHECKPOINTS, complete

log = logging.getLogger(__name__)

LEARNT, LOG, OPTIONS, REFERENCE = "learnt", "log.jsonl", "options.yaml", "reference.npz"
_LOCK, _FACTS, _BEFORE = "lock", "run.json", "before"
_KEPT = (CHECKPOINTS, LEARNT, LOG, OPTIONS, IMAGES, REFERENCE, _FACTS, "report.html")
# Options that leave the weights as they are. Any that is in none of these sets shapes them, and may not change.
FREE = frozenset(
    (
        *("config", "recipe", "resume", "plan", "name", "about", "modality", "store", "output", "track", "log_steps"),
        *("feature_cache", "feature_cache_gb", "workers", "gradient_checkpointing", "gate", "canary", "max_tokens"),
        "blind_rows",
    )
)
# Options of which the content is compared, not the path: see `facts`.
NAMED = frozenset(
    (
        *("data", "images", "eval_data", "model", "init_adapter"),
        *("form", "strict", "ignore", "columns", "annotations", "split"),  # how rows are read: the rows tell
    )
)
# When and on which rows the held-out loss is taken, by which --patience stops and chooses; without --patience these may
# change.
WATCHED = frozenset(("save_steps", "score_rows"))


@contextmanager
def owned(directory: Path, command: str = "") -> Iterator[Path]:
    """Make a run's directory and hold it until the block ends; whatever ends it, the way to go on is said.

    `command` is the trainer's command that can go on, as in "train".

    Raises:
        OptionError: it cannot be written, or another process holds it.
    """
    if not this_process().is_main_process:
        yield directory
        return
    check_folder("--output", directory)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _LOCK).open("a+") as file:
        _take(file, directory)
        try:
            yield directory
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(_way_on(directory, command)) from stop
        except BaseException as error:
            named = isinstance(error, TrainerError | ServiceError)  # its message says the way out itself
            if not named and (way := _way_on(directory, command)):
                log.error("%s", way)
            raise
        finally:
            file.truncate(0)


def _take(file: Any, directory: Path) -> None:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, however it ends
    except OSError as error:
        file.seek(0)
        raise OptionError(
            f"--output: {directory} is in use by {file.read().strip() or 'another process'}: wait for it, or name"
            " another directory"
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} of {socket.gethostname()}\n")
    file.flush()


def _way_on(directory: Path, command: str) -> str:
    if (directory / LEARNT).is_dir():
        return f"what was trained lies in {directory / LEARNT}"
    if not (directory / _FACTS).is_file():
        return ""
    last = complete(directory)
    what = f"{last[-1].name} is complete" if last else "no checkpoint is complete yet"
    return f"{what}; go on with: python -m trainer {command} --config {directory / OPTIONS} --resume"


def facts(options: LoopOptions, sides: Sides, base: Base) -> dict[str, str]:
    """The content of what the options name, by option: digests of rows and images, and the base's digest."""
    rows = data_digest(sides.train, sides.digests), data_digest(sides.held_out, sides.digests)
    named = {"data": rows[0], "eval-data": rows[1]} if options.eval_data else {"data": "-".join(rows)}
    return named | {"model": f"{base.digest} in {base.precision}"}


def begin(directory: Path, options: LoopOptions, facts: Mapping[str, str], resume: bool) -> None:
    """Start the run in `directory` afresh, or check that it may be gone on with; in several processes all call it.

    `facts` say what the options name, by option: digests of the rows, the base and so on.

    Raises:
        OptionError: there is no run to go on with, or it was begun with other options or data, all of which are named.
    """
    if this_process().is_main_process:
        now = {"options": options.model_dump(mode="json"), "facts": {**facts, "processes": _processes()}}
        if resume:
            _compare(directory, options, now["facts"])
        else:
            _put_aside(directory)
            (directory / _FACTS).write_text(json.dumps(now, indent=1) + "\n")
            write_options(options, directory / OPTIONS)
    this_process().wait_for_everyone()


def _processes() -> str:
    return str(this_process().num_processes)


def _compare(directory: Path, options: LoopOptions, now: Mapping[str, str]) -> None:
    try:
        then = json.loads((directory / _FACTS).read_text())
        before, facts = dict(then["options"]), dict(then["facts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        runs = sorted(file.parent.name for file in directory.parent.glob(f"*/{_FACTS}"))
        raise OptionError(
            f"--resume: {directory} holds no run to go on from; leave --resume out to begin one"
            f" ({directory.parent} holds {', '.join(runs) or 'none'})"
        ) from error
    may_change = FREE | NAMED | (frozenset() if before.get("patience") else WATCHED)
    given = options.model_dump(mode="json")
    # What was left to a default that other options decide is the same as that number given.
    decided, then_decided = options.decided, type(options).model_construct(**before).decided
    other = [
        f"--{name.replace('_', '-')} was {_said(before[name])} and is {_said(value)} now"
        for name, value in given.items()
        if name not in may_change
        and name in before
        and before[name] != value
        and not (name in decided and decided[name] == then_decided.get(name))
    ]
    # Another seed or share holds out other rows: one line is enough for both.
    parted = any(words.startswith(("--seed ", "--holdout ")) for words in other)
    for name, value in now.items():
        if name in facts and facts[name] != value and not (parted and name == "data"):
            counted = name == "processes"  # which the launcher's own option says
            said = f"was {facts[name]} and is {value} now" if counted else "names something else than then"
            other.append(f"the number of processes {said}" if counted else f"--{name} {said}")
    if other:
        raise OptionError(
            f"--resume: {directory} was begun otherwise: {'; '.join(other)}. Give what it was begun with"
            f" (--config {directory / OPTIONS} does), or leave --resume out to begin afresh; on new data or at another"
            f" rate, --init-adapter {directory} goes on from what was learnt"
        )


def _said(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def _put_aside(directory: Path) -> None:
    """Move what an earlier run left into a folder within, in place of what lay there.

    A run that ended before its first checkpoint leaves nothing to keep, and displaces nothing.
    """
    left = [name for name in _KEPT if (directory / name).exists()]
    if not any((directory / name).exists() for name in (LEARNT, CHECKPOINTS)):
        for name in left:
            (directory / name).unlink()
        return
    aside = directory / _BEFORE
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for name in left:
        (directory / name).rename(aside / name)
    log.info("beginning afresh; what an earlier run left in %s lies in %s now", directory, aside)


def cut_log(file: Path, step: int) -> None:
    """Drop the points of the curve behind `step`, from where a run goes on; a half-written last line goes too."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    file.write_text("".join(f"{line}\n" for line in kept))


def is_run(directory: Path) -> bool:
    """Whether a directory is a training run's; other tools call a folder `checkpoints` too."""
    return any((directory / name).exists() for name in (_FACTS, LEARNT)) or bool(complete(directory))


def learnt(directory: Path) -> Path:
    """Where what a run has learnt lies: its result, or else its last complete checkpoint.

    Raises:
        OptionError: it has neither yet.
    """
    if (directory / LEARNT).is_dir():
        return directory / LEARNT
    if last := complete(directory):
        return last[-1]
    raise OptionError(f"{directory}: the run has no complete checkpoint yet")
