"""create_app(settings, checkpoint, engine): parts put together, one lifespan, one error handler. No globals."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from service import page
from service.adapters.base import Base
from service.adapters.proof import Proof
from service.adapters.releases import Releases
from service.adapters.residency import Residency
from service.adapters.routing import some
from service.adapters.store import Store
from service.admission import Admission
from service.auth import Tenants
from service.capture import Capture, Files, Rules
from service.engine import Engine
from service.engine.sizing import Sizes
from service.engine.supervised import Supervised
from service.errors import ServiceError
from service.gate import Gate
from service.images import ImageLimits
from service.images.fetch import Fetcher, FetchLimits
from service.in_hand import InHand
from service.lifetime import Life
from service.memory import available
from service.metrics import Metrics, Versions, exposed
from service.middleware import BodyLimit, Head, RequestId, Trace
from service.online import Online
from service.pictures import Pictures
from service.places import Places
from service.prompt import Prompt
from service.rates import Rates
from service.routes import adapters, batch, captured, chat, failure, feedback, me, ops, vqa
from service.routes.state import Service, get_tenant, require_admin
from service.schemas.errors import ErrorResponse
from service.settings import Settings, loopback
from service.shared import Shared
from service.types import ANYONE, Query, Sampling
from service.vqa import VQA
from service.workers import Workers

log = logging.getLogger(__name__)

# They wait for a disk or a bucket more than they compute.
_STORE_THREADS = 8
# Between two lines that say that something is still going on.
_PROGRESS_S = 5.0


def create_app(
    settings: Settings,
    checkpoint: Path,
    engine: Engine,
    give_up: Callable[[], None] = lambda: None,
    sizes: Sizes | None = None,
) -> FastAPI:
    """The whole service over one engine, which starts with the app, again whenever it dies, and stops with the app.

    `give_up` is called when the engine cannot start at all: the process is of no use then. Without `sizes`, they follow
    from the memory there is now.

    Raises:
        FileNotFoundError: `checkpoint` is not a LLaVA checkpoint.
        DoesNotFit: it, or what the options ask for, needs more memory than there is.
        KeysFault: the file of keys is not as it should be.
    """
    app = FastAPI(
        title="Manylens",
        summary="Questions about pictures, answered by one LLaVA through many LoRA adapters.",
        lifespan=_lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere: service/page has one
        redoc_url=None,
        root_path=settings.root_path,
        responses={"default": {"model": ErrorResponse, "description": "Every failure has this shape"}},
    )
    app.state.give_up = give_up
    app.state.service = _assemble(settings, checkpoint, engine, sizes or Sizes.of(checkpoint, settings))
    # Looked through in this order: what is asked most comes first.
    asking = (vqa.router, chat.router, batch.router)
    others = (chat.others, feedback.router, captured.router, adapters.router, me.router)
    for router in (*asking, *others):
        app.include_router(router, dependencies=[Depends(get_tenant)])
    app.include_router(adapters.admin, dependencies=[Depends(require_admin)])
    app.include_router(ops.router)
    files = page.load(settings.root_path)
    app.include_router(page.router(files))
    app.add_middleware(Gate, life=app.state.service.life, always=files.keys())
    app.add_middleware(BodyLimit, limit=settings.body_limit, in_hand=app.state.service.vqa.in_hand)
    app.add_middleware(Head)
    app.add_middleware(Trace)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("*",),
            allow_headers=("*",),
            expose_headers=("x-request-id", "retry-after"),
        )
    app.add_middleware(RequestId)
    for kind in (ServiceError, RequestValidationError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, failure.reply)
    return app


def _assemble(settings: Settings, checkpoint: Path, raw: Engine, sizes: Sizes) -> Service:
    base = Base.of_checkpoint(checkpoint)
    log.info("memory: %s", sizes.story)
    prompt = Prompt(checkpoint)
    metrics, life = Metrics(), Life()
    canary = Query("canary", prompt.encode("are you there?", pictures=0), sampling=Sampling(max_tokens=1))
    engine = Supervised(raw, canary, settings, metrics)
    # Pools of their own, so that a slow bucket stops no decoding, and neither stops the following of keys.
    decoding = Workers(settings.image_workers, "decode", gives_way=True)
    storing, workers = Workers(_STORE_THREADS, "store"), Workers()
    # One: what it does holds Python for most of its time, so that two would only wait for each other.
    reading = Workers(1, "read", gives_way=True)
    proof = Proof.for_checkpoint(checkpoint, base, prompt, settings.max_lora_rank, settings.adapters_unproven)
    store = Store(settings.adapters, settings.adapters_cache, settings.adapters_cache_bytes)
    residency = Residency(
        store, engine, proof, storing, metrics, capacity=sizes.max_cpu_loras, max_loras=sizes.max_loras
    )
    releases = Releases(store, residency, storing)
    limits = ImageLimits(settings.image_pixels, count=settings.images_per_question, memory=settings.image_memory)
    fetcher = Fetcher(
        FetchLimits(
            settings.body_limit,
            settings.image_url_s,
            settings.image_url_hosts,
            settings.image_url_private,
            settings.image_url_contact,
        )
    )
    shared = Shared(settings.rates_redis, metrics.alone) if settings.rates_redis else None
    places = Places(shared)
    admission = Admission(settings.in_flight, settings.waiting, places)
    fetching = Admission(settings.fetches, settings.waiting)  # for requests that have a place already
    pictures = Pictures(proof.preparation, limits, fetcher, metrics)
    capture = None
    if settings.capture is not None:
        files = Files(settings.capture, settings.capture_days, settings.capture_bytes, settings.capture_a_day)
        rules = Rules(settings.capture_share, settings.capture_below)
        capture = Capture(files, settings.capture_redact, workers, metrics, rules)
    in_hand = InHand(settings.bytes_in_hand or max(available() // 8, settings.body_limit))
    log.info("bodies and fetched images: at most %.1f GB at once", in_hand.total / 1e9)
    use_case = VQA(
        base.id,
        engine,
        residency,
        prompt,
        pictures,
        admission,
        fetching,
        in_hand,
        decoding,
        Workers(1, "quick"),
        metrics,
        capture,
        life=life,
    )
    online = Online(residency, use_case.outcomes, capture)
    metrics.registry.register(Versions(online.series))
    _show(metrics, admission, life)
    _show_limits(metrics, settings, sizes, engine)
    metrics.bytes_in_hand.set_function(lambda: in_hand.total - in_hand.left)
    # Without keys, only who sits at this machine may change what is served.
    tenants = Tenants(settings.keys, replace(ANYONE, admin=loopback(settings.host)), Rates(shared))
    return Service(
        settings,
        base,
        engine,
        residency,
        releases,
        use_case,
        online,
        metrics,
        tenants,
        reading,
        workers,
        life,
        places,
        shared,
    )


def _show(metrics: Metrics, admission: Admission, life: Life) -> None:
    """Let the gauges of what is so just now look when they are read."""
    metrics.waiting.set_function(lambda: admission.waiting)
    metrics.running.set_function(lambda: admission.running)
    metrics.ready.set_function(lambda: life.unready is None)
    metrics.draining.set_function(lambda: life.leaving)


def _show_limits(metrics: Metrics, settings: Settings, sizes: Sizes, engine: Supervised) -> None:
    """Beside what is so just now, what it may be at most: alerts compare the two."""
    metrics.waiting_limit.set(settings.waiting)
    metrics.running_limit.set(settings.in_flight)
    metrics.connections_limit.set(settings.connections)
    metrics.resident_limit.set(sizes.max_cpu_loras)
    metrics.silence_limit.set_function(lambda: settings.engine_canary_s + engine.pace.canary_deadline_s)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    service: Service = app.state.service
    settings = service.settings
    own_port = (
        exposed(service.metrics, settings.host, settings.metrics_port) if settings.metrics_port else nullcontext()
    )
    tasks = [
        asyncio.create_task(_warm(service, app.state.give_up)),
        asyncio.create_task(service.tenants.watch(service.workers)),
        asyncio.create_task(service.places.renew()),
    ]
    if service.vqa.capture is not None:
        tasks.append(asyncio.create_task(service.vqa.capture.follow()))
    try:
        with own_port:
            yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if service.vqa.capture is not None:
            await service.vqa.capture.stop()
        if service.shared is not None:
            await service.shared.close()
        # First, so that no adapter's load or unload waits for an engine that stands still.
        await service.engine.stop()
        await service.residency.close()


async def _warm(service: Service, give_up: Callable[[], None]) -> None:
    """Start the engine and read the store while probes are answered already, then follow the store and the engine.

    No engine to begin with, no service.
    """
    try:
        async with _phase(f"starting the engine with {service.base.id} ({service.base.precision})"):
            await service.engine.start()
        async with _phase("asking a first question"):
            await _warm_up(service)
        async with _phase("reading the adapter store"):
            await service.residency.start()
        service.warm.set()
        served = some(service.residency.served.names()) or "none"
        log.info("ready: base %s in %s, adapters: %s", service.base.id, service.base.precision, served)
        async with asyncio.TaskGroup() as group:
            group.create_task(service.residency.follow(service.settings.adapters_poll_s))
            group.create_task(service.engine.supervise(partial(_forget, service), partial(_renew, service)))
    except Exception as error:
        log.error("the service cannot go on: %s", error or repr(error))
        log.debug("in full:", exc_info=True)
        give_up()


@asynccontextmanager
async def _phase(what: str) -> AsyncGenerator[None, None]:
    """Say what begins, every few seconds that it goes on, and how long it took."""
    began = time.monotonic()

    async def tell() -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            log.info("%s: %.0f s so far", what, time.monotonic() - began)

    log.info("%s", what)
    telling = asyncio.create_task(tell())
    try:
        yield
        log.info("%s: done in %.1f s", what, time.monotonic() - began)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _warm_up(service: Service) -> None:
    """Ask a first question, and a second where the model seems slow: the first pays for what is done only once."""
    pace = service.engine.pace
    for number in range(2):
        pace.measured(*await service.vqa.warm_up(number))
        if not pace.slow:
            break
    pace.report()


async def _forget(service: Service) -> None:
    service.warm.clear()
    await service.residency.forget()


async def _renew(service: Service) -> None:
    await _warm_up(service)
    await service.residency.restore()
    service.warm.set()
