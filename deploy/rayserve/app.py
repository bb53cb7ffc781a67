"""Manylens under Ray Serve: each replica starts the service on a port of its own and passes requests on to it.

    pip install 'ray[serve]' httpx
    MANYLENS_COMMAND='/opt/venv/bin/python -m service --model /models/llava' serve run deploy.rayserve.app:app

MANYLENS_COMMAND is what starts the service, without `--host` and `--port`; it may belong to another environment than
Ray's, and does so best: vLLM and Ray name versions of packages that do not always go together. The service queues,
sheds load and drains itself, so Ray passes on all that comes (max_ongoing_requests) and decides how many replicas
there are.
"""

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import AsyncGenerator

import httpx
from ray import serve
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse

START_S = 900.0
# The service's lame duck and drain, and a little more.
STOP_S = 75.0
# What belongs to one connection, and is not passed on (RFC 9110, 7.6.1); httpx sets length and host anew.
_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "content-length"}


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=800,  # as --connections
    health_check_period_s=10,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=STOP_S + 10,
    ray_actor_options={"num_cpus": 1},  # and "num_gpus": 1 where there are GPUs
)
class Manylens:
    """One replica: the service in a process of its own, and a client of it."""

    def __init__(self, command: str) -> None:
        """Start the service, and return once it is ready.

        Raises:
            RuntimeError: it ended while it started, or took over START_S.
        """
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        # Its child, so that it ends with the replica, however that ends: see service/engine/forking.py.
        self._service = subprocess.Popen([*shlex.split(command), "--port", str(port), "--lame-duck-s", "0"])
        self._client = httpx.AsyncClient(base_url=self._url, timeout=None)
        end = time.monotonic() + START_S
        while not self._ready():
            if self._service.poll() is not None:
                raise RuntimeError(f"`{command}` ended with status {self._service.returncode}: see this replica's log")
            if time.monotonic() > end:
                raise RuntimeError(f"`{command}` is not ready after {START_S:g} s: see this replica's log")
            time.sleep(0.2)

    async def __call__(self, request: Request) -> StreamingResponse:
        """Pass a request on, and its answer back as it comes; a client that leaves ends the question."""
        asked = self._client.build_request(
            request.method,
            httpx.URL(path=request.url.path, query=request.url.query.encode()),
            headers=[(name, value) for name, value in request.headers.items() if name not in _HOP],
            content=await request.body(),
        )
        answer = await self._client.send(asked, stream=True)
        headers = {name: value for name, value in answer.headers.items() if name not in _HOP}
        return StreamingResponse(_pieces(answer), answer.status_code, headers, background=BackgroundTask(answer.aclose))

    async def check_health(self) -> None:
        """Raise where Ray should replace this replica: the service ended, or says that it is not live.

        Raises:
            RuntimeError: it ended.
            httpx.HTTPError: it does not answer, or not with 200.
        """
        if self._service.poll() is not None:
            raise RuntimeError(f"the service ended with status {self._service.returncode}")
        (await self._client.get("/healthz", timeout=20)).raise_for_status()

    async def __del__(self) -> None:
        """Let the service answer what is under way, then end it; Ray calls this once no request is passed on."""
        if self._service.poll() is None:
            self._service.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(self._service.wait, STOP_S)
            except subprocess.TimeoutExpired:
                self._service.kill()

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self._url}/readyz", timeout=5).is_success
        except httpx.TransportError:
            return False


async def _pieces(answer: httpx.Response) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()


app = Manylens.bind(os.environ.get("MANYLENS_COMMAND", "python -m service"))  # type: ignore[attr-defined] # Ray makes it a Deployment
