"""Ray Serve on one node, really run: `make test-ray`. Ray has an environment of its own, the service the tests'."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.balancers import free_port
from tests.conftest import ROOT, png
from tests.test_http_edge import data_url
from tests.test_start_on_vllm import KEPT

SERVE = ROOT / "build/ray/venv/bin/serve"
RAY = SERVE.with_name("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not SERVE.exists(), reason="needs Ray Serve: make test-ray"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where Ray's proxy listens, in front of one replica of deploy/rayserve/app.py."""
    folder, port = tmp_path_factory.mktemp("ray"), free_port()
    variables = {
        "MANYLENS_COMMAND": f"{sys.executable} -m service --log-level warning",
        "RAY_SERVE_DEFAULT_HTTP_PORT": str(port),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
        **KEPT,
    }
    configuration = folder / "serve.yaml"
    configuration.write_text(
        f"http_options: {{host: 127.0.0.1, port: {port}}}\n"
        "applications: [{name: manylens, route_prefix: /, import_path: 'deploy.rayserve.app:app'}]\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [SERVE, "run", str(configuration)], cwd=ROOT, env=os.environ | variables, stdout=log, stderr=log
        )
    found = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 800
        while not _ready(found):
            assert process.poll() is None, (folder / "log").read_text()[-5000:]
            assert time.monotonic() < end, (folder / "log").read_text()[-5000:]
            time.sleep(0.5)
        yield found
    finally:
        process.terminate()
        process.wait(120)
        subprocess.run([RAY, "stop", "--force"], env=os.environ | variables, capture_output=True)
        assert not _services(), "the service ends with its replica"


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


def _services() -> list[Path]:
    """Processes of this checkout's service that a Ray replica started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = b"RAY_SERVE_DEFAULT_HTTP_PORT=" in (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if ours and (b"-m\0service" in command or b"VLLM" in command):
            found.append(folder)
    return found


def test_a_question_is_answered_through_ray(url: str) -> None:
    body = {"question": "what color is the shape?", "adapter": "shapes", "image": data_url(png("blue"))}
    answer = httpx.post(f"{url}/v1/vqa", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["answer"] == "blue"
    assert answer.headers["x-request-id"]


def test_pieces_come_as_they_are_said_and_errors_keep_their_shape(url: str) -> None:
    body = {"question": "what color is the shape?", "image": data_url(png()), "stream": True}
    with httpx.stream("POST", f"{url}/v1/vqa", json=body, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.read().rstrip().endswith(b"data: [DONE]")
    unknown = httpx.post(f"{url}/v1/vqa", json={"question": "what?", "adapter": "nope"}, timeout=60)
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "adapter_not_found"


def test_openai_s_routes_and_lists_pass(url: str) -> None:
    assert {model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]} >= {"shapes", "digits"}
    assert httpx.get(f"{url}/v1/adapters", params={"limit": 1}).json()["next"]
