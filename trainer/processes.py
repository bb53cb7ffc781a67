"""What the several processes of one training share: who each is, and how they agree. One process alone needs none."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from trainer.errors import DataError

T = TypeVar("T")


def here() -> Any:
    """Accelerate's PartialState of this process: `process_index` of `num_processes`, `is_main_process`."""
    return PartialState(cpu=not torch.cuda.is_available())


def mine(items: Sequence[T]) -> list[T]:
    """This process's share of `items`: every so-manieth."""
    state = here()
    return list(items[state.process_index :: state.num_processes])


def gathered(items: list[T]) -> list[T]:
    """The items of all processes, at each of them; all have to call this."""
    return list(gather_object(items))


def agree(faults: list[str]) -> None:
    """Raise at all processes what went wrong at any; all have to call this.

    Raises:
        DataError: there are faults.
    """
    if found := gathered(faults):
        raise DataError(found)
