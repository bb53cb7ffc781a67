"""Behind nginx with its defaults, which closes every connection to us: answers that come early reach the client."""

import asyncio
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.engine.fake import FakeEngine
from service.settings import Settings
from tests.conftest import CHECKPOINT, Running, listening
from tests.test_auth import bearer, write
from tests.test_cases_in_the_wild_http import free_port

__all__ = ["free_port"]
pytestmark = pytest.mark.slow

CONF = """
worker_processes 1; pid {folder}/pid; error_log {folder}/errors; daemon off; user root;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; client_max_body_size 64m; location / {{ proxy_pass {upstream}; }} }}
}}
"""


@pytest.fixture
async def proxied(tmp_path: Path, free_port: int) -> AsyncGenerator[tuple[Running, str], None]:
    """A service with keys, and the URL of an nginx in front of it."""
    if (nginx := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")) is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    engine, keys = FakeEngine(), write(tmp_path / "keys.json", {"acme": {}, "ops": {"admin": True}})
    (store := tmp_path / "store").mkdir()
    async with listening(create_app(Settings(adapters=store, keys=keys), CHECKPOINT, engine), engine) as running:
        conf = CONF.format(folder=tmp_path, port=free_port, upstream=str(running.client.base_url).rstrip("/"))
        (tmp_path / "conf").write_text(conf)
        command = [nginx, "-c", str(tmp_path / "conf"), "-e", str(tmp_path / "errors")]
        process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
        try:
            yield running, f"http://127.0.0.1:{free_port}"
        finally:
            process.terminate()
            await process.wait()


async def test_behind_nginx_with_its_defaults_no_early_answer_becomes_502(proxied: tuple[Running, str]) -> None:
    _, url = proxied
    told = Counter[tuple[int, int]]()
    # Expected: 401 without a key, 404 and 405 for what is not there, 413 over the limit.
    asked = [
        ("/v1/vqa", {}, 2_000_000, 401),
        ("/nope", {}, 500_000, 404),
        ("/healthz", {}, 3_000_000, 405),
        ("/v1/vqa", bearer("acme"), 21_000_000, 413),
    ]
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        async with asyncio.timeout(10):
            while not await _up(client):  # noqa: ASYNC110 - nginx announces nothing
                await asyncio.sleep(0.05)
        for _ in range(50):
            for path, headers, size, status in asked:
                response = await client.post(path, content=bytes(size), headers=headers)
                told[status, response.status_code] += 1
    assert told == {(status, status): 50 for _, _, _, status in asked}


async def _up(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/healthz")).is_success
    except httpx.TransportError:
        return False
