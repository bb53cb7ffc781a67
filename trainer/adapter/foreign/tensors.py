"""An adapter's tensors from whichever files its maker wrote: safetensors, a pickle of tensors, or shards of either."""

import logging
import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from service.adapters.modules import WEIGHTS
from service.errors import AdapterRefused
from service.text import LFS_POINTER

log = logging.getLogger(__name__)

PICKLE = "adapter_model.bin"
# Weights that were trained as a whole beside the LoRA: LLaVA's own trainer, trainers made after it, and ms-swift.
WHOLE = ("non_lora_trainables.bin", "non_lora_state_dict.bin", "mm_projector.bin", "vit.safetensors")
# LLaMA-Factory's and TRL's for a reward; it takes no part in an answer.
_HEADS = ("value_head.safetensors", "value_head.bin")
_SHARD = re.compile(r"adapter_model-(?P<number>\d{5})-of-(?P<of>\d{5})\.(?P<kind>safetensors|bin)")
# How a file begins that is not what its name says.
_BEGINNINGS = {
    LFS_POINTER: "is a git-LFS pointer, the file itself was not fetched: run `git lfs pull` there",
    b"<": "is a web page, saved in the file's stead: download it again",
    b"Entry not found": "is the hub's answer that there is no such file: download it again",
}


def refuse_pointer(file: Path) -> None:
    """Refuse a file that holds something else in its stead.

    Raises:
        AdapterRefused: it is empty, a git-LFS pointer or a web page.
    """
    with file.open("rb") as opened:
        start = opened.read(64)
    if not start:
        raise AdapterRefused("files", f"{file} is empty: copy it again")
    for beginning, says in _BEGINNINGS.items():
        if start.startswith(beginning):
            raise AdapterRefused("files", f"{file} {says}")


def refuse_whole_weights(folder: Path) -> None:
    """Refuse an adapter beside which other weights were trained: without them it is not what was trained.

    Raises:
        AdapterRefused: naming file and weights.
    """
    for file in (folder / name for name in WHOLE if (folder / name).is_file()):
        refuse_pointer(file)
        if names := sorted(_load(file)):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise AdapterRefused(
                "features",
                f"{file} holds {', '.join(names[:3])}{more}: weights trained as a whole are part of a base checkpoint, "
                "and without them the LoRA is not what was trained; train it with projector and vision tower frozen",
            )
    for file in (folder / name for name in _HEADS if (folder / name).is_file()):
        log.warning("%s is left out: a value head takes no part in an answer", file)


def read_tensors(folder: Path, most: int) -> dict[str, torch.Tensor]:
    """All tensors by the names that the files have for them; the files may hold `most` bytes together.

    Raises:
        AdapterRefused: no file of tensors, one that is something else, or too much of them.
    """
    files = _files(folder)
    for file in files:
        refuse_pointer(file)
    if (size := sum(file.stat().st_size for file in files)) > most:
        raise AdapterRefused(
            "files",
            f"{files[0]} has {size / 1e6:,.0f} MB, and no adapter for this base has over {most / 1e6:,.0f}: it holds"
            " other weights too; save the adapter alone with the model's save_pretrained",
        )
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        found = _load(file)
        if twice := sorted(tensors.keys() & found.keys()):
            raise AdapterRefused("keys", f"{twice[0]!r} is in {file.name} and in another shard as well")
        tensors |= found
    if not tensors:
        raise AdapterRefused("files", f"{folder} holds no tensors")
    _refuse_unfit(folder, tensors)
    return {name: _float(tensor).contiguous() for name, tensor in tensors.items()}


def _files(folder: Path) -> Sequence[Path]:
    """PEFT's own file before shards, safetensors before pickles."""
    ways = [list(way) for way in _ways(folder) if way]
    if not ways:
        raise AdapterRefused("files", f"{folder} holds no {WEIGHTS}, and no other file of an adapter's tensors")
    if len(ways) > 1:
        log.info("%s is read, %s beside it is not", ways[0][0], ", ".join(way[0].name for way in ways[1:]))
    return ways[0]


def _ways(folder: Path) -> Iterator[Sequence[Path]]:
    for kind, name in (("safetensors", WEIGHTS), ("bin", PICKLE)):
        yield [folder / name] if (folder / name).is_file() else []
        yield _shards(folder, kind)


def _shards(folder: Path, kind: str) -> Sequence[Path]:
    found = {file: match for file in sorted(folder.iterdir()) if (match := _SHARD.fullmatch(file.name))}
    shards = {file: match for file, match in found.items() if match["kind"] == kind}
    for match in shards.values():
        wanted = int(match["of"])
        if len(shards) != wanted or len({each["of"] for each in shards.values()}) > 1:
            raise AdapterRefused(
                "files", f"{folder} holds {len(shards)} of {wanted} {kind} shards: copy the others too"
            )
    return list(shards)


def _load(file: Path) -> dict[str, torch.Tensor]:
    if file.suffix == ".bin":
        return _unpickle(file)
    try:
        tensors: dict[str, torch.Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise AdapterRefused("files", f"{file} is not a safetensors file: {error}") from error
    return tensors


def _unpickle(file: Path) -> dict[str, torch.Tensor]:
    """Tensors of a .bin, with an unpickler that makes nothing else."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise AdapterRefused("files", f"{file} is not a file of tensors alone, and nothing else is loaded") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise AdapterRefused("files", f"{file} holds something else than tensors by name")
    return {str(name): tensor.detach().clone() for name, tensor in found.items()}


def _refuse_unfit(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    if empty := sorted(name for name, tensor in tensors.items() if not tensor.numel()):
        raise AdapterRefused(
            "shape",
            f"{folder}: {len(empty)} of {len(tensors)} tensors are empty, {empty[0]!r} first: DeepSpeed ZeRO-3 held"
            " them in parts when they were saved; save with stage3_gather_16bit_weights_on_model_save, or take a"
            " checkpoint that has them",
        )
    if packed := sorted(name for name, tensor in tensors.items() if not tensor.is_floating_point()):
        raise AdapterRefused(
            "features",
            f"{packed[0]!r} holds {tensors[packed[0]].dtype}: packed adapters are not served;"
            " save it as float16 or bfloat16",
        )


def _float(tensor: torch.Tensor) -> torch.Tensor:
    """Numbers of 8 bits as bfloat16, which holds each of them, and of 64 bits as float32: the engine takes neither."""
    return tensor.to({1: torch.bfloat16, 8: torch.float32}.get(tensor.element_size(), tensor.dtype))
