"""A run's checkpoints: each is marked once all of it is on disk, and only then are those before it removed."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from trainer.processes import this_process

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
# A checkpoint without this file was cut off by a kill.
MARK = "complete"


class Checkpoints(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Marks what transformers has saved, and keeps the last and the best."""

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """See transformers.TrainerCallback; every process has written its part when the first one marks."""
        this_process().wait_for_everyone()
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        last = folder / f"checkpoint-{state.global_step}"
        _mark(last)
        kept = {last.name, Path(state.best_model_checkpoint or last).name}
        for path in _found(folder):
            if path.name not in kept:
                _remove(path)


def complete(run: Path) -> list[Path]:
    """The complete checkpoints in a run's directory, oldest first."""
    return [path for path in _found(run / CHECKPOINTS) if (path / MARK).is_file()]


def last_complete(run: Path) -> Path | None:
    """The checkpoint to go on from; those cut off while they were written are removed, by the first process alone."""
    if this_process().is_main_process:
        for path in _found(run / CHECKPOINTS):
            if not (path / MARK).is_file():
                log.warning("%s was cut off while it was written: removed", path)
                _remove(path)
    this_process().wait_for_everyone()
    return next(reversed(complete(run)), None)


def _found(folder: Path) -> list[Path]:
    numbered = {int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoint-*[0-9]")}
    return [numbered[step] for step in sorted(numbered)]


def _mark(checkpoint: Path) -> None:
    """Write the mark when all files are on disk, so that a machine that stops leaves no mark without them."""
    for path in [*checkpoint.rglob("*"), checkpoint]:
        _flush(path)
    (checkpoint / MARK).touch()
    _flush(checkpoint)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(checkpoint: Path) -> None:
    (checkpoint / MARK).unlink(missing_ok=True)  # first: a kill within leaves nothing that looks complete
    shutil.rmtree(checkpoint)
