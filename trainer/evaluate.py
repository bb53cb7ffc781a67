"""`trainer evaluate`: every row asked of a running service over HTTP, of the base and of an adapter.

What is scored is what is served: precision, image path, prompt and routing included.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from tqdm import tqdm

from service.adapters.manifest import Score
from trainer.config import EvaluateOptions
from trainer.data.files import read
from trainer.data.rows import Row, read_rows
from trainer.errors import OptionError
from trainer.score import by_category, score


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one service answered: right answers in all and by category, and what it runs."""

    url: str
    base_id: str
    precision: str
    adapter: str
    total: Score
    categories: dict[str, Score]

    def summary(self) -> dict[str, object]:
        """One line for programs."""
        facts = {"url": self.url, "base": self.base_id, "precision": self.precision, "adapter": self.adapter}
        counts = {"rows": self.total.rows, "base_right": self.total.base, "adapter_right": self.total.adapter}
        return {**facts, **counts}


def evaluate(options: EvaluateOptions) -> list[Evaluation]:
    """Evaluate the adapter at each of the services, one after the other.

    Raises:
        OptionError: a service cannot be reached, is not ready, or does not serve the adapter.
        DataError: faulty rows.
    """
    rows = read_rows(options.data, options.images)[: options.limit]
    return [asyncio.run(_evaluate(url, options, rows)) for url in options.url]


def table(evaluations: Sequence[Evaluation]) -> str:
    """Counts side by side, a line for each service and category."""
    lines = [
        f"{'base model':<20} {'precision':<10} {'adapter':<10} {'rows':<9} {'count':>6} {'base':>14} {'adapter':>14}"
    ]
    for result in evaluations:
        for category, counts in {**result.categories, "all": result.total}.items():
            base, adapter = (f"{count} {count / counts.rows:7.2%}" for count in (counts.base, counts.adapter))
            lines.append(
                f"{result.base_id:<20} {result.precision:<10} {result.adapter:<10} {category:<9} {counts.rows:>6}"
                f" {base:>14} {adapter:>14}"
            )
    return "\n".join(lines)


async def _evaluate(url: str, options: EvaluateOptions, rows: list[Row]) -> Evaluation:
    limits = httpx.Limits(max_connections=options.clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        served = await _served(client, url, options.adapter)
        base = await _ask_all(client, rows, None, options.clients)
        adapter = await _ask_all(client, rows, options.adapter, options.clients)
    return Evaluation(
        url=url,
        base_id=served["base"]["id"],
        precision=served["base"]["precision"],
        adapter=options.adapter,
        total=score(rows, base, adapter),
        categories=by_category(rows, base, adapter),
    )


async def _served(client: httpx.AsyncClient, url: str, adapter: str) -> dict[str, Any]:
    try:
        (await client.get("/readyz")).raise_for_status()
        served: dict[str, Any] = (await client.get("/v1/adapters")).raise_for_status().json()
    except httpx.HTTPError as error:
        raise OptionError(f"--url {url}: no service is ready there ({error}); `make serve` starts one") from error
    names = [entry["name"] for entry in served["adapters"]]
    if adapter not in names:
        raise OptionError(f"--adapter {adapter}: {url} serves {', '.join(names) or 'no adapter'}")
    return served


async def _ask_all(client: httpx.AsyncClient, rows: list[Row], adapter: str | None, clients: int) -> list[str]:
    gate = asyncio.Semaphore(clients)
    with tqdm(total=len(rows), desc=f"{client.base_url} {adapter or 'base'}", unit="question") as progress:

        async def ask(row: Row) -> str:
            async with gate:
                answer = await _ask(client, row, adapter)
            progress.update()
            return answer

        return await asyncio.gather(*map(ask, rows))


async def _ask(client: httpx.AsyncClient, row: Row, adapter: str | None) -> str:
    fields = {"question": row.question} | ({"adapter": adapter} if adapter else {})
    if row.image is None:
        response = await client.post("/v1/vqa", json=fields)
    else:
        response = await client.post("/v1/vqa", data=fields, files={"image": read(row.image)})
    if response.is_error:
        raise OptionError(f"row {row.id}: the service answered {response.status_code}: {response.text[:300]}")
    answer: str = response.json()["answer"]
    return answer
