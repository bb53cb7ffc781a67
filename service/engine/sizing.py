"""What of an engine's memory goes to what: from the checkpoint, the memory there is, and the options.

`fit` is a pure function; the engine is started with what it returns. Its costs are those of vLLM 0.32's buffers:
keys and values of 2 x layers x heads x head size numbers a token, and for each adapter slot the A and B of every linear
at the largest rank (vllm/lora/layers/base_linear.py). tests/test_engine_sizing.py holds them to figures that were
measured.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.environment import on_cpu, without_avx512
from service.memory import GIB, Memory
from service.settings import Settings

# vLLM hands out the cache in blocks of tokens, of which one stays empty, and only full ones are found again for another
# question about the same picture. It takes 16 on a GPU; on a CPU 128 by itself, and here the least that its products
# for a CPU are made for.
_BLOCK = 32
# What processes that have imported torch and vLLM take at most: 1.4 GB where they are forked from one import (PSS, CPU
# build); more where each imports by itself, and where a model is spread over several.
_PROCESSES = int(2.5 * GIB)
# Of weights on a GPU: CUDA's context, its graphs, and what a batch needs while it runs.
_GPU_RUN = int(2.0 * GIB)
# Adapter slots, which is what vLLM keeps on the device for one adapter of a batch, and adapters in host memory.
_ADAPTER_SLOTS, _MOST_ADAPTERS = 4, 256
# A picture and the shortest useful question and answer about it.
_TALK = 256


class DoesNotFit(Exception):
    """The model, or what was asked for, needs more memory than there is; the message has the numbers and the option."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


@dataclass(frozen=True, slots=True)
class Shape:
    """What a checkpoint's files say of its size: bytes, and numbers of its language model."""

    weights: int
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    context: int
    image_tokens: int
    image_side: int
    bytes_each: int = 2
    packed: bool = False
    in_full: bool = False

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> "Shape":
        """Read `config.json` and the sizes of the weights' files.

        Raises:
            FileNotFoundError: there is no `config.json`.
            KeyError: it is not a LLaVA's.
        """
        config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
        text, vision = {**_LLAMA, **config["text_config"]}, {**_CLIP, **config.get("vision_config", {})}
        side = vision["image_size"]
        return cls(
            weights=sum(file.stat().st_size for file in checkpoint.glob("*.safetensors")),
            layers=text["num_hidden_layers"],
            hidden=text["hidden_size"],
            inner=text["intermediate_size"],
            heads=text["num_attention_heads"],
            kv_heads=text.get("num_key_value_heads") or text["num_attention_heads"],
            context=text["max_position_embeddings"],
            image_tokens=config.get("image_seq_length") or (side // vision["patch_size"]) ** 2,
            image_side=side,
            bytes_each=4 if "float32" in str(config.get("dtype") or config.get("torch_dtype")) else 2,
            packed="quantization_config" in config,
        )

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values."""
        return 2 * self.layers * self.kv_heads * (self.hidden // self.heads) * self.bytes_each

    @property
    def image_bytes(self) -> int:
        """Bytes of one image as the tower takes it, in float32."""
        return 3 * self.image_side**2 * 4

    def adapter_bytes(self, rank: int) -> int:
        """Bytes of a LoRA of that rank on all seven linears of every layer."""
        attention = 2 * (self.hidden + self.hidden) + 2 * (self.hidden + self.kv_size)
        return rank * self.layers * self.bytes_each * (attention + 3 * (self.hidden + self.inner))

    def in_float32(self) -> "Shape":
        """The same with weights as service/engine/without_avx512.py loads them: 4 bytes for a number of 4 or 16 bits.

        A little more than in truth: embeddings stay as they are, and scales of INT4 are dropped.
        """
        if self.bytes_each == 4:
            return self
        each = 2 * self.hidden * (self.hidden + self.kv_size) + 3 * self.hidden * self.inner
        packed = self.layers * each if self.packed else 0  # numbers of 4 bits
        return replace(self, weights=2 * (self.weights - packed // 2) + 4 * packed, in_full=True)

    @property
    def kv_size(self) -> int:
        """Numbers of one token's keys in one layer."""
        return self.kv_heads * (self.hidden // self.heads)


# What transformers takes where a configuration is silent, as llava-hf's are.
_LLAMA = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}  # fmt: skip
_CLIP = {"image_size": 336, "patch_size": 14}


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the engine is started with; bytes where no other unit is named. `kv_cache` is 0 on a GPU: vLLM measures."""

    max_model_len: int
    kv_cache: int
    max_loras: int
    max_cpu_loras: int
    image_cache: int
    gpu_memory_utilization: float
    story: str

    @classmethod
    def of(cls, checkpoint: Path, settings: Settings) -> "Sizes":
        """`fit` for a checkpoint's files and the memory there is now.

        Raises:
            DoesNotFit, and what `Shape.of_checkpoint` raises.
        """
        shape, memory = Shape.of_checkpoint(checkpoint), Memory.now()
        if on_cpu():  # vLLM's CPU build uses no GPU, though the machine may have one
            memory = replace(memory, gpus=())
        if without_avx512():
            shape = shape.in_float32()
        return fit(shape, memory, settings)

    def engine_arguments(self) -> dict[str, Any]:
        """VLLM's names for them."""
        arguments: dict[str, Any] = {
            "max_model_len": self.max_model_len,
            "max_loras": self.max_loras,
            "max_cpu_loras": max(self.max_cpu_loras, self.max_loras),
            "mm_processor_cache_gb": self.image_cache / GIB,
            "gpu_memory_utilization": self.gpu_memory_utilization,
        }
        cache = {"kv_cache_memory_bytes": self.kv_cache, "block_size": _BLOCK}
        return arguments | (cache if self.kv_cache else {})


def fit(shape: Shape, memory: Memory, settings: Settings) -> Sizes:
    """Share out the memory: weights, adapter slots, the context and its cache, adapters on the host.

    What an option sets is kept; what is left open shrinks until it fits.

    Raises:
        DoesNotFit: the weights, or an option's wish, need more than there is.
    """
    device = _gpu_room(memory, settings) if memory.gpus else memory.host - _PROCESSES
    name = "GPU memory" if memory.gpus else "memory"
    image_cache = _image_cache(shape, settings)
    host = memory.host - _PROCESSES - 2 * image_cache
    if not memory.gpus:
        device -= 2 * image_cache
    left = device - shape.weights
    if left <= 0:
        raise DoesNotFit(
            "model",
            f"its weights are {_gib(shape.weights)}{_why(shape)}, and {_gib(max(device, 0))} of {name} are there "
            "for it: "
            f"take {'' if shape.packed else 'an INT4 copy (python -m trainer quantize), '}a smaller model, or a larger "
            "machine",
        )
    slots = _slots(shape, settings, left)
    left -= slots * shape.adapter_bytes(settings.max_lora_rank)
    context = _context(shape, settings, left, name)
    kv_cache = 0
    if not memory.gpus:
        kv_cache = _kv_cache(shape, settings, left, context)
        host = left - kv_cache
    adapters = _adapters(shape, settings, host, slots)
    utilization = _utilization(memory, settings)
    each = shape.adapter_bytes(settings.max_lora_rank)
    story = (
        f"weights {_gib(shape.weights)}{_why(shape)} of {_gib(device)} {name}; context {context} tokens at "
        f"{shape.token_bytes / 1024:.0f} KiB; "
        + (f"KV cache {_gib(kv_cache)}" if kv_cache else f"GPU memory used up to {utilization:.0%}")
        + f"; {slots} adapter slots of rank {settings.max_lora_rank}, {_gib(each)} each; "
        f"{adapters} adapters on the host, at most {_gib(adapters * each)}"
        f"{' (MORE THAN IS FREE)' if adapters * each > max(host, 0) else ''}"
        f"; image cache 2 x {_gib(image_cache)}"
    )
    return Sizes(context, kv_cache, slots, adapters, image_cache, utilization, story)


def _why(shape: Shape) -> str:
    """Why weights take more than their files, for a reader; empty where they do not."""
    return " (in float32: this processor has no AVX-512)" if shape.in_full else ""


def _gpu_room(memory: Memory, settings: Settings) -> int:
    """Bytes on all GPUs that one model is spread over, less what running takes."""
    ways = int(settings.engine_args.get("tensor_parallel_size", 1)) * int(
        settings.engine_args.get("pipeline_parallel_size", 1)
    )
    if ways > len(memory.gpus):
        raise DoesNotFit("engine_args", f"{ways} GPUs are asked for, and {len(memory.gpus)} are there")
    used = memory.gpus[:ways]
    return ways * int(min(gpu.total for gpu in used) * _utilization(memory, settings) - _GPU_RUN)


def _utilization(memory: Memory, settings: Settings) -> float:
    """The share of a GPU that vLLM may take: as set, or nine tenths, less what others have taken already."""
    if settings.gpu_memory_utilization is not None or not memory.gpus:
        return settings.gpu_memory_utilization or 0.9
    return max(0.05, min(0.9, *(math.floor(100 * gpu.free / gpu.total - 2) / 100 for gpu in memory.gpus)))


def _image_cache(shape: Shape, settings: Settings) -> int:
    """Every image that may be asked about at once; vLLM keeps them in the engine's process and in ours."""
    return min(4 * GIB, max(256, settings.in_flight * settings.images_per_question) * shape.image_bytes)


def _slots(shape: Shape, settings: Settings, left: int) -> int:
    """Adapter slots: as set, or four, if they take no more than a quarter of what the weights leave."""
    each = shape.adapter_bytes(settings.max_lora_rank)
    slots = settings.max_loras or max(1, min(_ADAPTER_SLOTS, left // 4 // each))
    if slots * each >= left:
        raise DoesNotFit(
            "max_loras",
            f"{slots} adapter slots of rank {settings.max_lora_rank} take {_gib(slots * each)}, and "
            f"{_gib(left)} are left beside the weights: ask for fewer, or a smaller --max-lora-rank",
        )
    return slots


def _context(shape: Shape, settings: Settings, left: int, name: str) -> int:
    """The context: as set, or the model's own, or as much of it as leaves a sixteenth of memory free."""
    room = left // shape.token_bytes - _BLOCK
    wanted = settings.max_model_len or shape.context
    if settings.max_model_len is None:
        wanted = min(wanted, int(room * 15 / 16) // _BLOCK * _BLOCK)
    least = min(shape.context, shape.image_tokens + _TALK)
    if wanted > room or wanted < (0 if settings.max_model_len else least):
        wanted = max(wanted, least)
        raise DoesNotFit(
            "max_model_len",
            f"one sequence of {wanted} tokens needs {_gib((wanted + _BLOCK) * shape.token_bytes)} of KV cache, and "
            f"{_gib(max(left, 0))} of {name} are left beside weights and adapter slots: ask for a shorter context or "
            "fewer --max-loras",
        )
    return wanted


def _kv_cache(shape: Shape, settings: Settings, left: int, context: int) -> int:
    """On a CPU: as set, or a third of what is left, but one sequence at least and no more than all sequences fill."""
    one = (math.ceil(context / _BLOCK) + 1) * _BLOCK * shape.token_bytes
    if settings.cpu_kv_cache_gib is None:
        return min(max(one, left // 3), max(GIB, settings.max_num_seqs * one))
    wished = int(settings.cpu_kv_cache_gib * GIB)
    if wished < one:
        raise DoesNotFit(
            "cpu_kv_cache_gib",
            f"{_gib(wished)} do not hold one sequence of {context} tokens, which needs {_gib(one)}: "
            "ask for more, or for a shorter --max-model-len",
        )
    if wished > left:
        raise DoesNotFit(
            "cpu_kv_cache_gib",
            f"{_gib(wished)} are asked for, and {_gib(left)} are left beside weights and adapter slots",
        )
    return wished


def _adapters(shape: Shape, settings: Settings, host: int, slots: int) -> int:
    """Adapters in host memory: as set, or as many of the largest rank as their bytes hold."""
    each = shape.adapter_bytes(settings.max_lora_rank)
    if settings.adapters_host_bytes is not None and settings.adapters_host_bytes < slots * each:
        raise DoesNotFit(
            "adapters_host_bytes",
            f"they hold {settings.adapters_host_bytes // each} adapters of rank {settings.max_lora_rank}, which take "
            f"{_gib(each)} each, and there are {slots} slots to fill: give {slots * each} or fewer --max-loras",
        )
    budget = settings.adapters_host_bytes if settings.adapters_host_bytes is not None else host // 2
    return settings.max_cpu_loras or max(slots, min(_MOST_ADAPTERS, budget // each))


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB // 10 else f"{size / (1 << 20):.0f} MiB"
