"""create_app(settings, checkpoint, engine): parts put together, one lifespan, one error handler. No globals."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.adapters.base import Base
from service.adapters.proof import Proof
from service.adapters.releases import Releases
from service.adapters.residency import Residency
from service.adapters.store import Store
from service.adapters.watch import watch
from service.admission import Admission
from service.engine import Engine
from service.errors import InvalidRequest, ServiceError
from service.images import ImageLimits
from service.images.fetch import Fetcher, FetchLimits
from service.metrics import Metrics
from service.middleware import BodyLimit, RequestId
from service.prompt import Prompt
from service.routes import adapters, ops, vqa
from service.routes.state import Service
from service.schemas import ErrorBody, ErrorResponse
from service.settings import Settings
from service.vqa import VQA
from service.workers import Workers

log = logging.getLogger(__name__)


def create_app(
    settings: Settings, checkpoint: Path, engine: Engine, give_up: Callable[[], None] = lambda: None
) -> FastAPI:
    """The whole service over one engine, which starts with the app and stops with it.

    `give_up` is called when the engine cannot start: the process is of no use then.

    Raises:
        FileNotFoundError: `checkpoint` is not a LLaVA checkpoint.
    """
    app = FastAPI(
        title="Manylens",
        summary="One LLaVA, many lenses: visual question answering through LoRA adapters.",
        lifespan=_lifespan,
        responses={"default": {"model": ErrorResponse, "description": "Every failure has this shape"}},
    )
    app.state.give_up = give_up
    app.state.service = _assemble(settings, checkpoint, engine)
    for router in (vqa.router, adapters.router, adapters.admin, ops.router):
        app.include_router(router)
    app.add_middleware(BodyLimit, limit=settings.body_limit)
    app.add_middleware(RequestId)
    for kind in (ServiceError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _reply_error)
    return app


def _assemble(settings: Settings, checkpoint: Path, engine: Engine) -> Service:
    base = Base.of_checkpoint(checkpoint)
    prompt = Prompt(checkpoint)
    metrics = Metrics()
    workers = Workers(settings.image_workers)
    proof = Proof.for_checkpoint(checkpoint, base, prompt, settings.max_lora_rank, settings.adapters_unproven)
    store = Store(settings.adapters, settings.adapters_cache)
    residency = Residency(store, engine, proof, workers, metrics, settings.max_cpu_loras)
    releases = Releases(store, residency, workers)
    limits = ImageLimits(settings.image_pixels)
    fetcher = Fetcher(
        FetchLimits(settings.body_limit, settings.image_url_s, settings.image_url_hosts, settings.image_url_private)
    )
    admission = Admission(settings.in_flight, settings.waiting)
    use_case = VQA(engine, residency, prompt, proof.preparation, limits, fetcher, admission, workers, metrics)
    return Service(settings, base, engine, residency, releases, use_case, metrics)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    service: Service = app.state.service
    warming = asyncio.create_task(_warm(service, app.state.give_up))
    try:
        yield
    finally:
        warming.cancel()
        await asyncio.gather(warming, return_exceptions=True)
        await service.residency.close()
        await service.engine.stop()


async def _warm(service: Service, give_up: Callable[[], None]) -> None:
    """Start the engine and prove the adapters while probes are answered already, then follow the store.

    No engine, no service.
    """
    log.info("loading %s (%s)", service.base.id, service.base.precision)
    try:
        await service.engine.start()
        await service.vqa.warm_up()
        await service.residency.reconcile()
    except Exception:
        log.exception("the service cannot start")
        give_up()
        return
    service.warm.set()
    served = ", ".join(service.residency.served.names()) or "none"
    log.info("ready: base %s in %s, adapters: %s", service.base.id, service.base.precision, served)
    await watch(service.residency, service.settings.adapters_poll_s)


async def _reply_error(request: Request, error: Exception) -> JSONResponse:
    """Every failure leaves here, in one shape."""
    status, code, message, headers = 500, ServiceError.code, "something went wrong on our side", {}
    if isinstance(error, RequestValidationError):
        status, code, message = InvalidRequest.status, InvalidRequest.code, str(error.errors())
    elif isinstance(error, HTTPException):
        status, code, message = error.status_code, "http_error", str(error.detail)
    elif isinstance(error, ServiceError):
        status, code, message = error.status, error.code, error.message
        if error.retry_after_s is not None:
            headers["retry-after"] = str(error.retry_after_s)
    else:
        log.error("request %s failed unexpectedly", request.state.request_id, exc_info=error)
    body = ErrorResponse(error=ErrorBody(code=code, message=message, request_id=request.state.request_id))
    return JSONResponse(body.model_dump(), status, headers)
