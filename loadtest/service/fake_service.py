"""The whole service on the fake engine, in a process of its own: so that the gateway's own work is measured.

python -m loadtest.service.fake_service [--port 8198] [any other option of the service]
"""

import asyncio
import gc
import itertools
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field
from pydantic_settings import CliApp

from loadtest.store.stores import files_of, record_probes
from service import logs
from service.adapters.store import Store
from service.app import create_app
from service.engine.fake import FakeEngine
from service.prompt import Prompt
from service.server import serve
from service.settings import Settings


class FakeSettings(Settings):
    """The service's options, and how fast the engine answers."""

    step_s: float = Field(0.0, ge=0, description="seconds that the fake engine takes for a word")
    copies: int = Field(1, gt=0, description="times that each adapter is there, the first under its own name")
    as_it_is: bool = Field(
        False, description="follow the store itself, whose probes the fake engine answers already; else a copy"
    )


def main(arguments: list[str]) -> int:
    """Serve a copy of the store, its probes answered by the fake engine; returns the exit status."""
    given = CliApp.run(FakeSettings, cli_args=arguments)
    logs.configure(given.log_level, given.log_format)
    checkpoint = Path(given.model)
    if given.as_it_is:
        return _serve(given, checkpoint)
    with TemporaryDirectory() as directory:
        asyncio.run(record_probes(Path(given.adapters), Path(directory), Prompt(checkpoint), checkpoint))
        store = Store(directory)
        for name, number in itertools.product(store.names(), range(1, given.copies)):
            store.publish(f"{name}-{number}", files_of(store.stable(name)))
        return _serve(given.model_copy(update={"adapters": directory}), checkpoint)


def _serve(settings: FakeSettings, checkpoint: Path) -> int:
    app = create_app(settings, checkpoint, FakeEngine(step_s=settings.step_s))
    gc.freeze()  # as the real engine does once it has started
    return serve(app, settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
