"""The service on a replica: one client's speed, and throughput of the base against adapters mixed in a batch."""

import io
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, Any

import httpx
from PIL import Image

from loadtest.gpu.make import device
from loadtest.process import serving
from loadtest.service.size import children_bytes
from service.memory import GIB, Memory

if TYPE_CHECKING:
    from loadtest.gpu.__main__ import Recipe

_ALONE = 8


def measure(recipe: "Recipe", precision: str) -> dict[str, Any]:
    """Start the service with its default sizes and measure it; the INT4 replica through adapters as well.

    Goals on an H100: first token within 150 ms, 100 tokens/s for one client, 0.9 of the base's throughput with eight
    adapters in a batch.
    """
    free = sum(gpu.free for gpu in Memory.now().gpus)
    options = [
        "--model", str(recipe.model(precision)),
        "--adapters", str(recipe.work / "store"), "--adapters-unproven", "true",
        "--max-loras", str(recipe.adapters), "--max-lora-rank", str(recipe.rank), "--log-level", "warning",
        "--in-flight", str(recipe.clients), "--deadline-s", "600",
    ]  # fmt: skip
    began = perf_counter()
    with (
        serving("service", recipe.port, *options, ready_s=recipe.step_s) as url,
        httpx.Client(base_url=url, timeout=700) as client,
    ):
        found: dict[str, Any] = {
            "device": device(),
            "precision": precision,
            "ready_s": round(perf_counter() - began, 1),
        }
        found |= _alone(client, recipe)
        if precision == "int4":
            found |= _together(client, recipe)
        used = free - sum(gpu.free for gpu in Memory.now().gpus)
        return found | {"gpu_gib": round(used / GIB, 2), "host_gib": round(children_bytes() / GIB, 2)}


def _alone(client: httpx.Client, recipe: "Recipe") -> dict[str, float]:
    """Medians over questions asked one after the other, each about another picture, the first two left out."""
    replies = [_ask(client, recipe, number, None) for number in range(_ALONE + 2)][2:]
    first = [reply["timing"]["first_token_s"] for reply in replies]
    rates = [_rate(reply["usage"]["completion_tokens"], reply["timing"]) for reply in replies]
    return {
        "first_token_ms": round(1000 * statistics.median(first), 1),
        "tokens_per_second_alone": round(statistics.median(rates), 1),
    }


def _rate(tokens: int, timing: dict[str, float]) -> float:
    """Tokens per second after the first token."""
    return (tokens - 1) / max(1e-9, timing["total_s"] - timing["first_token_s"])


def _together(client: httpx.Client, recipe: "Recipe") -> dict[str, Any]:
    """Output tokens per second with all clients at once: of the base and, in the same round, of all adapters mixed."""
    names = [f"random-{number}" for number in range(recipe.adapters)]
    _throughput(client, recipe, names, 1000)  # every adapter is loaded before time is taken
    rates: dict[str, list[float]] = {"base": [], "adapters": []}
    for number in range(recipe.rounds):
        rates["base"].append(_throughput(client, recipe, [None], 2000 + 200 * number))
        rates["adapters"].append(_throughput(client, recipe, names, 2100 + 200 * number))
    ratios = [mixed / base for mixed, base in zip(rates["adapters"], rates["base"], strict=True)]
    return {
        "tokens_per_second_base": round(statistics.median(rates["base"]), 1),
        "tokens_per_second_adapters": round(statistics.median(rates["adapters"]), 1),
        "adapters_over_base": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def _throughput(client: httpx.Client, recipe: "Recipe", names: Sequence[str | None], seed: int) -> float:
    began = perf_counter()
    with ThreadPoolExecutor(recipe.clients) as pool:
        asked = [
            pool.submit(_ask, client, recipe, seed + number, names[number % len(names)])
            for number in range(2 * recipe.clients)
        ]
        tokens: int = sum(each.result()["usage"]["completion_tokens"] for each in asked)
    return tokens / (perf_counter() - began)


def _ask(client: httpx.Client, recipe: "Recipe", number: int, adapter: str | None) -> dict[str, Any]:
    form = {"question": "what is in the picture?", "max_tokens": str(recipe.answer), "deadline_s": "600"}
    if adapter:
        form["adapter"] = adapter
    reply = client.post("/v1/vqa", data=form, files={"image": ("picture.png", _picture(number), "image/png")})
    reply.raise_for_status()
    body: dict[str, Any] = reply.json()
    return body


def _picture(number: int) -> bytes:
    """A PNG of LLaVA's 336 x 336 pixels, in a colour that the number decides."""
    image = Image.new("RGB", (336, 336), (number % 256, number // 256 % 256, 128))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
