"""What the several processes of one training share: their numbers, their parts of the work, and faults of any."""

from collections.abc import Sequence
from os import environ
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from trainer.errors import DataError

T = TypeVar("T")


def this_process() -> Any:
    """Accelerate's PartialState: `process_index` of `num_processes`, `is_main_process`."""
    return PartialState(cpu=not torch.cuda.is_available())


def sharing() -> tuple[int, int]:
    """How many processes share out the weights, and how many gradients and the optimiser's states.

    The launcher's environment says so (FSDP, or DeepSpeed and its stage). 1: each process has all of them.
    """
    count = int(this_process().num_processes)
    if environ.get("ACCELERATE_USE_FSDP") == "true":
        return count, count
    if environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        return (count if environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3" else 1), count
    return 1, 1


def own_share(items: Sequence[T]) -> list[T]:
    """The items for this process: those at process_index, process_index + num_processes, and so on."""
    state = this_process()
    return list(items[state.process_index :: state.num_processes])


def gathered(items: list[T]) -> list[T]:
    """The items of all processes, at each of them; all have to call this."""
    return list(gather_object(items))


def raise_everywhere(faults: list[str]) -> None:
    """Raise in all processes the faults that any of them has; all have to call this.

    Raises:
        DataError: there are faults.
    """
    if found := gathered(faults):
        raise DataError(found)
