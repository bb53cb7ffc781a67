"""The reference of preference training: log-probabilities of every answer by the model before it learns, kept on disk.

The model before it learns is the base, since a new LoRA changes nothing, or with --init-adapter that adapter. Its
log-probabilities lie in the run's directory, so that a run that is resumed has the very same ones.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from trainer.config.training import TrainOptions
from trainer.model.attention import kernel
from trainer.model.forest import Batch, Trees
from trainer.model.pairs import Owners
from trainer.processes import gathered, this_process
from trainer.training.lessons import Lessons
from trainer.training.preference import Answers, Preference
from trainer.training.run import REFERENCE
from trainer.training.updates import Shares, Updates

# A function that gives the context manager under which the model has to run (`Checkpoint.precision`).
Precision = Callable[[], AbstractContextManager[Any]]


def preference(options: TrainOptions, model: Any, precision: Precision, lessons: Lessons, output: Path) -> Preference:
    """The objective that the options name, with the reference that it needs.

    `model` is as its training begins. The reference is read from the run's directory `output` where a run goes on, and
    computed and written there where it does not.
    """
    sides = (lessons.trees, lessons.held_out)
    known: tuple[torch.Tensor | None, ...] = (None, None)
    if options.method == "dpo":
        known = _kept(output / REFERENCE, sides) if options.resume else (None, None)
        if None in known:
            known = tuple(_computed(model, precision, trees, lessons, options.rows_per_step) for trees in sides)
            _keep(output / REFERENCE, known)
    device = next(model.parameters()).device
    trained, held_out = (
        Answers(Owners(trees.tokens, device), each if each is None else each.to(device))
        for trees, each in zip(sides, known, strict=True)
    )
    return Preference(options, trained, held_out)


def _computed(model: Any, precision: Precision, trees: Trees, lessons: Lessons, rows: int) -> torch.Tensor:
    """The log-probability of each answer token of `trees`, (answer tokens,); each process computes a share."""
    state = this_process()
    order = Updates(trees, rows, None)
    shares = Shares(order, trees, lessons.budget, lessons.bend, lessons.sight, state.num_processes)
    device = next(model.parameters()).device
    found: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    model.eval()
    with torch.no_grad(), precision():
        for update in tqdm(range(len(order)), desc="reference", unit="update", mininterval=2):
            for forest in shares[update * state.num_processes + state.process_index]["forests"]:
                batch = vars(Batch(**forest).to(device))
                with kernel(batch["trees"].shape[1]):
                    log_probs = model(**batch, each=True).float()
                found.append((forest["numbers"].numpy(), log_probs.cpu().numpy()))
    whole = np.zeros(int(trees.tokens.answer_starts[-1]), np.float32)
    for numbers, values in gathered(found):
        whole[numbers] = values
    return torch.from_numpy(whole)


def _keep(file: Path, known: tuple[torch.Tensor | None, ...]) -> None:
    """Write both sides; the file takes its name once it is whole, and one process writes it."""
    if this_process().is_main_process:
        part = file.with_suffix(".part.npz")
        np.savez(part, *(each.numpy() for each in known if each is not None))
        part.rename(file)
    this_process().wait_for_everyone()


def _kept(file: Path, sides: tuple[Trees, Trees]) -> tuple[torch.Tensor | None, ...]:
    """The log-probabilities in a run's file, if it has as many as both sides have answer tokens; else None for both."""
    if not file.is_file():
        return None, None
    with np.load(file) as arrays:
        found = tuple(torch.from_numpy(arrays[name]) for name in arrays.files)
    sizes = [int(trees.tokens.answer_starts[-1]) for trees in sides]
    return found if [len(each) for each in found] == sizes else (None, None)
