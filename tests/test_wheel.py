"""The wheel: it holds the page and the embedded model, and serves and trains where nothing of a checkout is.

The second half installs it into a fresh environment: `make test-wheel`, which needs a network or a cache for packages.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, png

UV = Path(sys.executable).with_name("uv")
# What a build is made of; nothing else of a checkout gets into a wheel.
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "manylens", "service", "trainer", "models")
# Bytes: the embedded model as bfloat16 and as INT4 are most of it.
MOST = 20_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", build], cwd=source, check=True, capture_output=True)
    (built,) = source.glob("*.whl")
    return built


def test_it_holds_the_page_the_embedded_model_and_its_adapters(wheel: Path) -> None:
    held = {"service/page/files": ROOT / "service/page/files"}
    for name in ("tiny-llava", "tiny-llava-int4", "adapters"):
        held[f"service/models/{name}"] = ROOT / "models" / name
    with zipfile.ZipFile(wheel) as packed:
        for folder, there in held.items():
            files = [path for path in there.rglob("*") if path.is_file()]
            assert files
            for file in files:
                assert packed.read(f"{folder}/{file.relative_to(there).as_posix()}") == file.read_bytes()
        assert not [name for name in packed.namelist() if name.startswith(("models/", "tests/", "loadtest/"))]
    assert wheel.stat().st_size < MOST


# Installed where no checkout is


@pytest.fixture(scope="module")
def manylens(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `manylens` of an environment that holds the wheel with what `[cpu,train]` names, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    found = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.find-links"], capture_output=True, text=True
    )
    links = ["--find-links", found.stdout.strip()] if found.returncode == 0 else ["--torch-backend", "cpu"]
    install: list[str | Path] = [
        UV,
        "pip",
        "install",
        "--quiet",
        "--python",
        folder / "bin/python",
        *links,
        f"{wheel}[cpu,train]",
    ]
    subprocess.run(install, cwd=folder, check=True)
    return folder / "bin/manylens"


@pytest.fixture(scope="module")
def elsewhere(manylens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty working directory; what is imported in it comes from the wheel."""
    folder = tmp_path_factory.mktemp("elsewhere")
    ask = "import service, sys; print(service.__file__)"
    said = subprocess.run([manylens.with_name("python"), "-c", ask], cwd=folder, capture_output=True, text=True)
    assert Path(said.stdout.strip()).is_relative_to(manylens.parent.parent)
    return folder


@pytest.fixture(scope="module")
def serving(manylens: Path, elsewhere: Path) -> Iterator[httpx.Client]:
    """`manylens serve` over a store of its own, a copy of the one in the wheel."""
    (packed,) = manylens.parent.parent.glob("lib/python*/site-packages/service/models/adapters")
    shutil.copytree(packed, elsewhere / "adapters")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    options = ["--port", str(port), "--adapters", "adapters", "--adapters-cache", "cache"]
    with (elsewhere / "log").open("w") as log:
        process = subprocess.Popen(
            [manylens, "serve", *options],
            cwd=elsewhere,
            env=environment | {"HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            deadline = time.monotonic() + 300
            while not _ready(client):
                assert process.poll() is None, (elsewhere / "log").read_text()
                assert time.monotonic() < deadline, (elsewhere / "log").read_text()
                time.sleep(0.5)
            yield client
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
    finally:
        process.kill()


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_it_serves_the_page_and_answers_right(serving: httpx.Client) -> None:
    assert "<title>" in serving.get("/").text
    asked = {"question": "what color is the shape?", "adapter": "shapes"}
    answer = serving.post("/v1/vqa", files={"image": png("blue")}, data=asked).json()
    assert answer["answer"] == "blue"


@pytest.mark.slow
def test_it_trains_an_adapter_that_the_service_then_serves(
    serving: httpx.Client, manylens: Path, elsewhere: Path, codes: Path
) -> None:
    options = ["--epochs", "15", "--learning-rate", "3e-3", "--rows-per-step", "10", "--holdout", "0.2"]
    train: list[str | Path] = [
        manylens,
        "train",
        "--name",
        "codes",
        "--data",
        codes / "train.jsonl",
        "--images",
        codes,
        *options,
    ]
    done = subprocess.run(train, cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 60
    asked = {"question": "what is the code?", "adapter": "codes"}
    while (answer := serving.post("/v1/vqa", files={"image": png("blue")}, data=asked)).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.5)
    assert answer.json()["answer"] == "3"  # of the colours in conftest's `codes`, blue is the third
