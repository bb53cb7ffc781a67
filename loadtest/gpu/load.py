"""The scenarios of loadtest/load on a replica, at random arrivals, and loadtest/bench beside stock vLLM."""

import json
from typing import TYPE_CHECKING, Any

import torch

from loadtest.bench.__main__ import main as side_by_side
from loadtest.gpu.make import device
from loadtest.load.measure import ask_first, capacity, measure
from loadtest.load.scenarios import scenarios
from loadtest.servers import ours
from service.environment import without_avx512

if TYPE_CHECKING:
    from loadtest.gpu.__main__ import Recipe

_SHARES = (0.5, 0.8)
_CASES = ("small-1", "small-16", "adapters", "photos")


def arrive(recipe: "Recipe") -> dict[str, Any]:
    """Each scenario at two shares of the service's capacity for it; those with keys are left out."""
    names = [f"random-{number}" for number in range(recipe.adapters)]
    options = [
        "--adapters-unproven", "true", "--max-loras", str(recipe.adapters), "--max-lora-rank", str(recipe.rank),
        "--log-level", "warning", "--in-flight", str(recipe.clients), "--deadline-s", "600",
    ]  # fmt: skip
    lines = []
    with ours(recipe.port, str(recipe.model("int4")), str(recipe.work / "store"), *options) as server:
        url = f"http://127.0.0.1:{recipe.port}"
        for scenario in (each for each in scenarios(names).values() if not each.keys):
            ask_first(url, scenario)
            full = capacity(url, scenario, recipe.load_s / 2)
            lines += [measure(url, scenario, share * full, recipe.load_s, server=server) for share in _SHARES]
    return {"device": device(), "scenarios": lines}


def beside(recipe: "Recipe") -> dict[str, Any]:
    """Four cases of `make bench`, with all servers on one GPU; their lines go to WORK/bench.jsonl.

    They are of INT4; tried on a CPU without AVX-512, where stock serves none, of bfloat16's weights in float32.
    """
    full = without_avx512()
    output = recipe.work / "bench.jsonl"
    output.unlink(missing_ok=True)
    missed = side_by_side(
        [
            "--case",
            json.dumps(_CASES),
            "--rounds",
            str(recipe.rounds),
            "--seconds",
            str(recipe.load_s),
            "--model",
            str(recipe.model("bfloat16" if full else "int4")),
            "--peer-model",
            str(recipe.model("bfloat16")),
            "--adapters",
            str(recipe.work / "store"),
            "--adapter",
            "random-0",
            "--output",
            str(output),
            "--port",
            str(recipe.port),
            *(("--gpu-share", "0.22") if torch.cuda.is_available() else ()),
            *(("--dtype", "float32") if full else ()),
        ]
    )
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    goals = {line["case"]: line["goals"] for line in lines}
    return {"device": device(), "in_float32": full, "all_reached": missed == 0, "goals": goals}
