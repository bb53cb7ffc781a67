"""W4A16 in compressed-tensors' form: what config.json says of it, and one linear's weights packed.

Only the language model's linears are packed; tower, projector and head stay as they are, as in llm-compressor's example
for LLaVA.
"""

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

log = logging.getLogger(__name__)
# vLLM matches these; the expanded list of names that compressed-tensors would write it does not.
IGNORE = ["re:.*vision_tower.*", "re:.*multi_modal_projector.*", "re:.*lm_head"]
# Added to the Hessian's diagonal, of its mean: GPTQ's own (Frantar et al., "GPTQ", ICLR 2023, section 3.3).
_DAMPING = 0.01


def packing_config(group_size: int) -> dict[str, Any]:
    """`quantization_config` of a checkpoint whose linears share a scale in groups of `group_size` inputs."""
    group = {
        "format": "pack-quantized",
        "input_activations": None,
        "output_activations": None,
        "targets": ["Linear"],
        "weights": {**_arguments(group_size), "actorder": None, "dynamic": False, "observer": "memoryless_minmax"},
    }
    return {
        "config_groups": {"group_0": group},
        "format": "pack-quantized",
        "ignore": IGNORE,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "version": _version(),
    }


@dataclass(frozen=True, slots=True)
class Packed:
    """One linear (output, input) in 4 bits: `tensors` as they are stored, `weight` the values they stand for."""

    tensors: dict[str, torch.Tensor]
    weight: torch.Tensor

    def split(self, outputs: list[int]) -> "list[Packed]":
        """The linears whose weights were put on top of each other, by their numbers of outputs."""
        packed, scale = (torch.split(self.tensors[f"weight_{part}"], outputs) for part in ("packed", "scale"))
        return [
            Packed({"weight_packed": words, "weight_scale": steps, "weight_shape": torch.tensor(weight.shape)}, weight)
            for words, steps, weight in zip(packed, scale, torch.split(self.weight, outputs), strict=True)
        ]


def pack(weight: torch.Tensor, hessian: torch.Tensor | None, group_size: int) -> Packed:
    """Pack a weight of shape (output, input): by GPTQ with the inputs' second moment (input, input), else by rounding.

    The second moment is used up: GPTQ computes in its place. Scales are of each group's largest value, as
    llm-compressor's `memoryless_minmax` has them.
    """
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    arguments = QuantizationArgs(**_arguments(group_size))
    groups = weight.float().reshape(len(weight), -1, group_size)
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), arguments)
    scale = scale.to(torch.bfloat16)
    if hessian is not None:
        weight = _gptq(weight, hessian, scale, zero, arguments)
    whole = quantize(weight.float(), scale.float(), zero, arguments, dtype=torch.int8)
    tensors = {
        "weight_packed": pack_to_int32(whole, 4),
        "weight_scale": scale,
        "weight_shape": torch.tensor(weight.shape),
    }
    return Packed(tensors, dequantize(whole, scale, zero, arguments, dtype=torch.bfloat16))


def _gptq(weight: torch.Tensor, hessian: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, arguments: Any) -> Any:
    """llm-compressor's GPTQ of one linear; the weights it returns lie on the grid of `scale`."""
    found, _, rounded = _gptq_of_llm_compressor()(
        weight.to(torch.float32, copy=True)[None],
        hessian[None],
        scale.float()[None],
        zero[None],
        None,
        arguments,
        percdamp=_DAMPING,
    )
    if rounded.any():
        log.warning("a linear with %d inputs is rounded: its rows' second moment could not be inverted", len(hessian))
    return found[0]


@cache
def _gptq_of_llm_compressor() -> Any:
    """Its `quantize_weight`, which on a CPU then goes through a block's columns on one thread.

    Each column takes a dozen operations of some microseconds. Threads that wait for each other after every one took 150
    times as long as one thread alone, on two cores that had other work as well.
    """
    from compressed_tensors.utils.impl_backend import ImplBackend
    from llmcompressor.modifiers.gptq import gptq_quantize

    eager = gptq_quantize.gptq_block_update.__wrapped__

    @ImplBackend.register(  # type: ignore[untyped-decorator]
        "gptq_block_update", lambda weights, *_, **__: weights.device.type == "cpu", 1
    )
    def gptq_block_update_on_one_thread(*tensors: Any, **options: Any) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            eager(*tensors, **options)
        finally:
            torch.set_num_threads(threads)

    return gptq_quantize.quantize_weight


def unpack(tensors: dict[str, torch.Tensor], group_size: int) -> torch.Tensor:
    """The values that a packed linear's stored tensors stand for, in bfloat16."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    whole = _steps(tensors["weight_packed"])[:, : int(tensors["weight_shape"][1])]
    arguments = QuantizationArgs(**_arguments(group_size))
    found: torch.Tensor = dequantize(whole, tensors["weight_scale"], None, arguments, dtype=torch.bfloat16)
    return found


@contextmanager
def quick_unpacking() -> Iterator[None]:
    """Within the block compressed-tensors unpacks 4 bits by `_steps`: a ninth of the time of its own code for any bits.

    That is 70 s less of a processor's time for each 7B that is loaded. glibc keeps blocks of some megabytes that are
    given back, 3 GB in all for a 7B, unless it is asked for them.
    """
    from compressed_tensors.compressors.pack_quantized import base

    theirs = base.unpack_from_int32
    trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)

    def unpacked(words: torch.Tensor, bits: int, shape: torch.Size, packed_dim: int = 1) -> torch.Tensor:
        if (bits, words.ndim, packed_dim) != (4, 2, 1):
            found: torch.Tensor = theirs(words, bits, shape, packed_dim)
            return found
        trim(0)
        return _steps(words)[:, : shape[1]]

    base.unpack_from_int32 = unpacked
    try:
        yield
    finally:
        base.unpack_from_int32 = theirs
        trim(0)


def _steps(words: torch.Tensor) -> torch.Tensor:
    """Words of eight values each, (output, input / 8) in int32, the lowest bits first -> steps from -8 to 7 in int8."""
    pairs = words.contiguous().view(torch.uint8)
    steps = torch.empty(*pairs.shape, 2, dtype=torch.int8, device=words.device)
    steps[..., 0] = (pairs & 15).view(torch.int8) - 8
    steps[..., 1] = (pairs >> 4).view(torch.int8) - 8
    return steps.view(len(words), -1)


def _arguments(group_size: int) -> dict[str, Any]:
    return {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group_size}


def _version() -> str:
    try:
        return version("compressed-tensors")
    except PackageNotFoundError:  # only the form is written then
        return "0.19.0"
