"""Shared fixtures: the embedded model, images, a service over the fake engine, and the one over vLLM that all share."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import settings as hypothesis_settings
from PIL import Image, ImageDraw

from loadtest.store.stores import record_probes
from service import logs
from service.app import create_app
from service.engine import Engine
from service.engine.fake import FakeEngine
from service.prompt import Prompt
from service.server import Server
from service.settings import Settings
from tests.redis_server import Redis

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "models/tiny-llava-int4"
ADAPTERS = ROOT / "models/adapters"

# A busy machine fails no property.
hypothesis_settings.register_profile("any machine", deadline=None)
hypothesis_settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--inputs", type=int, default=100_000, help="inputs of each fuzz test (make test-fuzz)")


@pytest.fixture(autouse=True)
def _logging_stays_as_it_was() -> Generator[None, None, None]:
    """A command run in a test configures logging for the whole process, on a stream that ends with the test."""
    root, named = logging.getLogger(), [logging.getLogger(name) for name in logs._OTHERS]
    handlers, levels = root.handlers[:], [(logger, logger.level) for logger in (root, *named)]
    yield
    root.handlers[:] = handlers
    for logger, level in levels:
        logger.setLevel(level)


@dataclass(frozen=True)
class Running:
    """A service that answers: its app, its engine, and a client whose base URL is it."""

    app: FastAPI
    engine: Engine
    client: httpx.AsyncClient


def png(colour: str = "red", size: tuple[int, int] = (64, 64), file_format: str = "PNG") -> bytes:
    """A coloured disc on white, encoded."""
    image = Image.new("RGB", size, "white")
    width, height = size
    ImageDraw.Draw(image).ellipse((width // 4, height // 4, 3 * width // 4, 3 * height // 4), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows and images of a domain with rules of its own: every colour has a number; `train.jsonl` in their folder.

    No two of its 60 files hold the same bytes: of two that did, both would be on the same side of a split.
    """
    folder = tmp_path_factory.mktemp("codes")
    colours = ("red", "green", "blue", "black", "orange", "purple")
    asked = ("what is the code?", "which code is shown in the picture?", "code?")
    lines = []
    for number in range(60):
        code = number % len(colours)
        (folder / f"{number}.png").write_bytes(png(colours[code], (64 + number // len(colours), 64)))
        for question in asked[: 1 + number % 3]:
            lines.append(json.dumps({"image": f"{number}.png", "question": question, "answer": str(code + 1)}))
    (folder / "train.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def prompt() -> Prompt:
    return Prompt(CHECKPOINT)


@pytest.fixture(scope="session")
async def fake_adapters(tmp_path_factory: pytest.TempPathFactory, prompt: Prompt) -> Path:
    """The repository's adapters, with probes as the fake engine answers them."""
    return await record_probes(ADAPTERS, tmp_path_factory.mktemp("adapters"), prompt, CHECKPOINT)


@pytest.fixture
async def fake(fake_adapters: Path) -> AsyncGenerator[Running, None]:
    """A warm service over the fake engine."""
    async with serving(Settings(adapters=fake_adapters), FakeEngine()) as running:
        yield running


@asynccontextmanager
async def serving(
    settings: Settings, engine: Engine, wait: bool = True, checkpoint: Path = CHECKPOINT
) -> AsyncGenerator[Running, None]:
    """The app's lifespan around a client that calls it without a socket."""
    app = create_app(settings, checkpoint, engine)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://test")
    async with app.router.lifespan_context(app), client:
        if wait:
            await asyncio.wait_for(app.state.service.warm.wait(), 60)
        yield Running(app, engine, client)


async def until(happened: Callable[[], bool]) -> None:
    """Return once `happened`, which nobody announces; five seconds are enough for anything here."""
    async with asyncio.timeout(5):
        while not happened():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.005)


@asynccontextmanager
async def listening(app: FastAPI, engine: Engine) -> AsyncGenerator[Running, None]:
    """The app behind a socket, warm."""
    settings: Settings = app.state.service.settings
    server = Server(app, settings.model_copy(update={"port": 0}))
    task = asyncio.create_task(server.serve())
    await asyncio.wait_for(app.state.service.warm.wait(), 300)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield Running(app, engine, client)
    server.should_exit = True
    await task


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncGenerator[Running, None]:
    """A service of one slot and one place over a fake engine, the base alone, behind a socket: one can hang up."""
    engine = FakeEngine()
    app = create_app(Settings(adapters=tmp_path, in_flight=1, waiting=1), CHECKPOINT, engine)
    async with listening(app, engine) as running:
        yield running


@pytest.fixture(scope="session")
async def real() -> AsyncGenerator[Running, None]:
    """The whole service on vLLM behind a socket, INT4 weights and the repository's adapters; started once."""
    from service.engine.vllm import VLLMEngine

    # vLLM tells what each step gave to the vision tower only with its details on; a busy machine is no dead engine.
    settings = Settings(
        model=str(CHECKPOINT),
        adapters=ADAPTERS,
        port=0,
        engine_args={"enable_logging_iteration_details": True},
        engine_canary_deadline_s=300,
    )
    engine = VLLMEngine(CHECKPOINT, settings)
    app = create_app(settings, CHECKPOINT, engine)
    async with listening(app, engine) as running:
        yield running


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the test itself may take long to hear Redis."""
    monkeypatch.setattr("service.shared._PATIENCE_S", 60.0)
