"""What a mixture costs when it is served: the service on vLLM asked through it and through a plain LoRA, in turn."""

import base64
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from loadtest.process import serving
from loadtest.trainer.mixture.one import Place
from trainer.data.row import Row
from trainer.data.rows import read_rows


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a mixture's answers over those of a plain LoRA: the median of the rounds, the least and the most."""

    kind: str
    ratio: float
    least: float
    most: float
    lora_ms: float
    mixture_ms: float


def costs(place: Place, plain: str, mixture: str, rounds: int, port: int, each: int = 24) -> list[Cost]:
    """One cost for questions with a picture and one for text, of so many rounds with so many questions of each kind.

    A round asks every question through both adapters, one straight behind the other, by turns which comes first.
    """
    rows = read_rows(place.work / "test.jsonl", place.pictures / "images")
    kinds = {kind: [row for row in rows if row.category == kind][:each] for kind in ("image", "text")}
    options = ["--model", str(place.base), "--adapters", str(place.work / "store"), "--log-level", "warning"]
    found = []
    with serving("service", port, *options) as url, httpx.Client(base_url=url, timeout=120) as client:
        for adapter in (plain, mixture):
            _until_served(client, adapter)
        for kind, part in kinds.items():
            seconds = [_round(client, part, (plain, mixture)) for _ in range(rounds + 1)][1:]  # the first one warms
            ratios = [after / before for before, after in seconds]
            ms = [1000 * statistics.median(side) for side in zip(*seconds, strict=True)]
            found.append(Cost(kind, statistics.median(ratios), min(ratios), max(ratios), *ms))
    return found


def _round(client: httpx.Client, rows: Sequence[Row], adapters: tuple[str, str]) -> tuple[float, float]:
    """The median seconds of an answer through each adapter."""
    took: dict[str, list[float]] = {adapter: [] for adapter in adapters}
    for number, row in enumerate(rows):
        body: dict[str, object] = {"question": row.question, "max_tokens": 8}
        if row.image:
            body["image"] = f"data:image/png;base64,{base64.b64encode(Path(row.image).read_bytes()).decode()}"
        for adapter in adapters if number % 2 else reversed(adapters):
            began = time.perf_counter()
            client.post("/v1/vqa", json={**body, "adapter": adapter}).raise_for_status()
            took[adapter].append(time.perf_counter() - began)
    plain, mixture = (statistics.median(took[adapter]) for adapter in adapters)
    return plain, mixture


def _until_served(client: httpx.Client, adapter: str) -> None:
    """Wait until the service has proven an adapter.

    Raises:
        SystemExit: it does not within ten minutes.
    """
    latest = time.monotonic() + 600
    while client.post("/v1/vqa", json={"question": "?", "adapter": adapter, "max_tokens": 1}).is_error:
        if time.monotonic() > latest:
            raise SystemExit(f"{adapter} is not served: {client.get('/v1/adapters').text}")
        time.sleep(1)
