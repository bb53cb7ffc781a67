"""Every row asked of a running service over HTTP: what is scored is what is served, routing and precision included."""

import asyncio
import base64
import io
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
from PIL import Image
from tqdm import tqdm

from service.adapters.aliases import STABLE
from service.types import ChatMessage
from trainer.config.evaluation import CalibrateOptions, EvaluateOptions
from trainer.data.files import read
from trainer.data.row import Row
from trainer.errors import OptionError
from trainer.evaluation.blind import Blind, NotAsked, blind_control, blind_places, why_none
from trainer.evaluation.result import Evaluation, ModelAnswer, Source

# Tokens of an answer where --max-tokens is not given: the length of right answers in the service's tokens is not known.
SERVICE_TOKENS = 64
# The fewest characters a token stands for in texts of most languages.
_CHARACTERS = 2

log = logging.getLogger(__name__)


async def ask_service(url: str, options: EvaluateOptions, rows: Sequence[Row]) -> list[Evaluation]:
    """What the service at `url` answers to `rows`, through its base once and through each adapter.

    Raises:
        OptionError: it cannot be reached, is not ready, does not serve an adapter, or refuses a row; or conversations
            are to be asked by beams, which the service does not take together.
    """
    if max(options.beams) > 1 and any(row.history for row in rows):
        raise OptionError(
            "--beams: the service answers conversations with a history without beams: --model asks them in process"
        )
    longest = max(len(row.answer) for row in rows)
    if options.max_tokens is None and longest > _CHARACTERS * SERVICE_TOKENS:
        log.warning(
            "right answers have up to %d characters and %d tokens may not hold them: --max-tokens asks for more",
            *(longest, SERVICE_TOKENS),
        )
    limits = httpx.Limits(max_connections=options.clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        served = await _served(client, url, options.adapter)
        source = Source(url, served["base"]["id"], served["base"]["precision"])
        base = {beams: await _ask_all(client, rows, None, options, beams) for beams in options.beams}
        evaluations = []
        for name in options.adapter:
            for beams in options.beams:
                began = time.monotonic()
                said = await _ask_all(client, rows, name, options, beams)
                seconds = time.monotonic() - began
                given = (source, name, rows, base[beams], said)
                found = Evaluation.of(*given, seed=options.seed, beams=beams, seconds=seconds)
                evaluations.append(replace(found, blind=await _blind(client, found, options)))
        return evaluations


async def _blind(client: httpx.AsyncClient, found: Evaluation, options: EvaluateOptions) -> Blind | NotAsked:
    """The control without images on at most --blind-rows of the rows, or why the service could not be asked it."""
    places = blind_places(found.rows, options.blind_rows, options.seed)
    if not places:
        return why_none(options.blind_rows)
    rows = [found.rows[place] for place in places]
    try:
        grey = await _grey(client, found.adapter)
        hidden = await _ask_all(client, rows, found.adapter, options, found.beams, grey)
    except OptionError as error:
        log.warning("%s was not asked without the images: %s", found.adapter, error)
        return NotAsked(str(error))
    shown = [found.answers[place] for place in places]
    return blind_control(rows, shown, [each.text for each in hidden], options.seed)


async def _grey(client: httpx.AsyncClient, adapter: str) -> bytes:
    """A PNG of the colour that the base pads with, in the size that it sees, as the adapter's manifest has them.

    Raises:
        OptionError: the service does not tell them.
    """
    name, _, alias = adapter.partition("@")
    response = await client.get(f"/v1/adapters/{name}")
    if response.is_error:
        raise OptionError(f"the service does not tell of the adapter: {response.status_code}: {response.text[:300]}")
    told = response.json()
    version = told["aliases"][alias or STABLE]["version"]
    (manifest,) = (each["manifest"] for each in told["versions"] if each["version"] == version)
    if manifest is None:
        raise OptionError("the version has no manifest, which would tell the colour of the grey picture")
    size, colour = manifest["preparation"]["size"], tuple(manifest["preparation"]["colour"])
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, "PNG")
    return file.getvalue()


async def ask_version(
    url: str, reference: str, options: CalibrateOptions, rows: Sequence[Row]
) -> tuple[list[ModelAnswer], str]:
    """What one adapter, by NAME@VERSION, answers to `rows`, and the precision of the base that it answers on.

    Raises:
        OptionError: as `ask_service`.
    """
    limits = httpx.Limits(max_connections=options.clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        served = await _served(client, url, [reference])
        return await _ask_all(client, rows, reference, options), served["base"]["precision"]


async def _served(client: httpx.AsyncClient, url: str, adapters: Sequence[str]) -> dict[str, Any]:
    try:
        (await client.get("/readyz")).raise_for_status()
        served: dict[str, Any] = (await client.get("/v1/adapters")).raise_for_status().json()
        while served.get("next"):
            page = (await client.get("/v1/adapters", params={"after": served["next"]})).raise_for_status().json()
            served = page | {"adapters": served["adapters"] + page["adapters"]}
    except httpx.HTTPError as error:
        raise OptionError(f"--url {url}: no service is ready there ({error}); `make serve` starts one") from error
    names = [entry["name"] for entry in served["adapters"]]
    if unknown := [adapter for adapter in adapters if adapter.partition("@")[0] not in names]:
        raise OptionError(f"--adapter {', '.join(unknown)}: {url} serves {', '.join(names) or 'no adapter'}")
    return served


async def _ask_all(
    client: httpx.AsyncClient,
    rows: Sequence[Row],
    adapter: str | None,
    options: EvaluateOptions | CalibrateOptions,
    beams: int = 1,
    instead: bytes | None = None,
) -> list[ModelAnswer]:
    """The answers in the order of `rows`; with `instead`, that picture is shown in place of every image.

    Raises:
        OptionError: the service refuses a row.
    """
    gate = asyncio.Semaphore(options.clients)
    fields = {"max_tokens": options.max_tokens or SERVICE_TOKENS} | ({"adapter": adapter} if adapter else {})
    fields |= {"beams": beams} if beams > 1 else {}
    with tqdm(total=len(rows), desc=_bar(client, adapter, beams, instead), unit="question") as progress:

        async def ask(row: Row) -> ModelAnswer:
            async with gate:
                answer = await _ask(client, row, fields, instead)
            progress.update()
            return answer

        try:
            async with asyncio.TaskGroup() as group:  # one refusal ends the other questions too
                asked = [group.create_task(ask(row)) for row in rows]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in asked]


def _bar(client: httpx.AsyncClient, adapter: str | None, beams: int, instead: bytes | None) -> str:
    blind = " without images" if instead else ""
    return f"{client.base_url} {adapter or 'base'}{blind}" + (f", {beams} beams" if beams > 1 else "")


async def _ask(client: httpx.AsyncClient, row: Row, fields: dict[str, Any], instead: bytes | None) -> ModelAnswer:
    if row.history:
        return await _ask_on(client, row, fields, instead)
    fields = {"question": row.question, **fields}
    if row.image is None:
        response = await client.post("/v1/vqa", json=fields)
    else:
        response = await client.post("/v1/vqa", data=fields, files={"image": instead or read(row.image)})
    if response.is_error:
        raise OptionError(f"row {row.id}: the service answered {response.status_code}: {response.text[:300]}")
    answer = response.json()
    return ModelAnswer(answer["answer"], answer["confidence"], answer.get("calibrated_confidence"))


async def _ask_on(client: httpx.AsyncClient, row: Row, fields: dict[str, Any], instead: bytes | None) -> ModelAnswer:
    """As `_ask`, of a question with a history, by POST /v1/chat/completions, whose answers have no confidence."""
    model = fields.get("adapter") or (await client.get("/v1/adapters")).raise_for_status().json()["base"]["id"]
    messages = []
    for message in (*row.messages, ChatMessage("user", row.question, row.pictures)):
        parts: list[dict[str, Any]] = [{"type": "text", "text": message.text}]
        if message.pictures and row.image:
            url = f"data:;base64,{base64.b64encode(instead or read(row.image)).decode()}"
            parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
        messages.append({"role": message.role, "content": parts})
    asked = {"model": model, "messages": messages, "max_tokens": fields["max_tokens"]}
    response = await client.post("/v1/chat/completions", json=asked)
    if response.is_error:
        raise OptionError(f"row {row.id}: the service answered {response.status_code}: {response.text[:300]}")
    answer: str = response.json()["choices"][0]["message"]["content"]
    return ModelAnswer(answer.strip())
