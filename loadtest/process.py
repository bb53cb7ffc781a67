"""A service in a process of its own, to be measured from outside."""

import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx


@contextmanager
def serving(
    module: str, port: int, *options: str, stderr: int | None = None, ready_s: float = math.inf
) -> Iterator[str]:
    """Run `python -m module` on `port` until the block ends; yields its URL once it is ready. `stderr` is subprocess's.

    Raises:
        SystemExit: it ended before it was ready, or was not within `ready_s` seconds.
    """
    command = [sys.executable, "-m", module, "--port", str(port), "--lame-duck-s", "0", *options]
    with subprocess.Popen(command, stderr=stderr) as process:
        url = f"http://127.0.0.1:{port}"
        latest = time.monotonic() + ready_s
        try:
            while not _ready(url):
                if time.monotonic() > latest:
                    raise SystemExit(f"{' '.join(command)} is not ready after {ready_s:g} s")
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()


def fake_service(port: int, *options: str) -> AbstractContextManager[str]:
    """`serving` the service on the fake engine; its log goes to /dev/null, so that writing it costs what it would."""
    return serving("loadtest.service.fake_service", port, *options, stderr=subprocess.DEVNULL)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False
