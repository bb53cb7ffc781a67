"""The container image, really built and run: `make test-image`. Needs buildah, podman and a network for packages.

What is asserted is what a platform engineer relies on: a right answer from a container that may write nothing but
/tmp, /cache and shared memory, under any user id; nothing to install packages with; a change of code that rebuilds
one layer. Sizes and seconds are printed.
"""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not (shutil.which("buildah") and shutil.which("podman")), reason="buildah and podman build it"),
]
# MANYLENS_BUILD: more arguments of `buildah bud`, as --build-arg BASE=… or --build-context wheels=…;
# MANYLENS_PODMAN: a command in podman's place, where it needs one around it.
BUILD = shlex.split(os.environ.get("MANYLENS_BUILD", ""))
PODMAN = shlex.split(os.environ.get("MANYLENS_PODMAN", "podman --storage-driver overlay"))
LARGEST = 2_800_000_000
PORT = 8391
# As strict as Kubernetes makes a container: it may write /tmp, /cache and shared memory alone.
LOCKED = (
    "--read-only --read-only-tmpfs=false --cap-drop all --security-opt no-new-privileges"
    " --tmpfs /tmp --tmpfs /cache:mode=1777 --shm-size 512m"
)


def build(target: str, *more: str, context: Path = ROOT) -> str:
    """Build a target of the Dockerfile; returns what buildah said."""
    command = [
        "buildah",
        "--storage-driver",
        "overlay",
        "bud",
        "--layers",
        "--isolation",
        "chroot",
        "--format",
        "docker",
    ]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, *BUILD, *more, "--target", target, "-t", f"localhost/manylens-test:{target}", str(context)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"{target}: {time.perf_counter() - started:.0f} s")
    return done.stdout + done.stderr


def inside(*command: str, image: str = "demo", entry: str = "/usr/bin/env") -> subprocess.CompletedProcess[str]:
    """Run a command in a new container."""
    run = [*PODMAN, "run", "--rm", "--network", "host", "--entrypoint", entry, f"localhost/manylens-test:{image}"]
    return subprocess.run([*run, *command], capture_output=True, text=True)


@pytest.fixture(scope="module")
def demo() -> str:
    build("demo", "--build-arg", "ENGINE=cpu")
    return "localhost/manylens-test:demo"


@pytest.fixture
def serving(demo: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A container under a user id; yields its URL once it is ready."""
    with serve(demo, "", request.param) as url:
        yield url


@contextmanager
def serve(demo: str, options: str, user: int | str) -> Iterator[str]:
    """A container as strict as Kubernetes makes it, under a user id; gives its URL once it is ready."""
    name = f"manylens-test-{user}"
    command = f"run --rm --name {name} --network host {LOCKED} {options} -u {user}:0 {demo} --port {PORT}"
    started, container = time.perf_counter(), subprocess.Popen([*PODMAN, *shlex.split(command)])
    url = f"http://127.0.0.1:{PORT}"
    try:
        while not _ready(url):
            assert container.poll() is None, "it ended while it started"
            assert time.perf_counter() - started < 600, "it is not ready after ten minutes"
            time.sleep(0.5)
        print(f"ready after {time.perf_counter() - started:.1f} s")
        yield url
    finally:
        container.terminate()
        assert container.wait(120) in (0, 143)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("serving", [65532, 1000730000], indirect=True)
def test_it_answers_right_under_any_user_who_may_write_nothing(serving: str) -> None:
    with (ROOT / "docs/circle.png").open("rb") as image:
        data = {"question": "what color is the shape?", "adapter": "shapes"}
        answer = httpx.post(f"{serving}/v1/vqa", files={"image": image}, data=data, timeout=60)
    assert answer.json()["answer"] == "blue"
    choice = {"question": "is it a circle?", "choices": ["yes", "no"]}
    assert httpx.post(f"{serving}/v1/vqa", json=choice, timeout=60).is_success


def test_it_is_small_and_installs_nothing(demo: str) -> None:
    inspected = subprocess.run(
        [*PODMAN, "image", "inspect", "--format", "{{.Size}}", demo], capture_output=True, text=True, check=True
    )
    size = int(inspected.stdout)
    print(f"{size / 1e9:.2f} GB")
    assert size <= LARGEST
    found = inside("sh", "-c", "find / -xdev -name 'pip*' -path '*bin*' -o -xdev -name uv -type f; ls /opt/venv/bin")
    assert not {"pip", "pip3", "uv"} & set(found.stdout.split())


def test_a_change_of_code_makes_one_layer_again(demo: str, tmp_path: Path) -> None:
    context = tmp_path / "context"
    shutil.copytree(ROOT, context, ignore=shutil.ignore_patterns(".venv", "build", ".git", ".*_cache"))
    with (context / "service/__init__.py").open("a") as file:
        file.write(f"# {time.time()}\n")
    said = build("demo", "--build-arg", "ENGINE=cpu", context=context)
    assert "uv pip install --python /usr/bin/python3" in said
    assert said.count("Using cache") > 10


def test_the_health_check_tells_a_dead_service(demo: str) -> None:
    check = "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:1/healthz', timeout=4)"
    assert check.split(";")[1].split("(")[0].strip() in (ROOT / "Dockerfile").read_text()
    assert inside("/opt/venv/bin/python", "-I", "-c", check).returncode == 1


def test_the_trainer_has_an_image_of_its_own(demo: str) -> None:
    build("train", "--build-arg", "ENGINE=cpu")
    helped = inside("-m", "trainer", "train", "--help", image="train", entry="/opt/venv/bin/python")
    assert "--score-rows" in helped.stdout, helped.stderr


def test_a_served_container_takes_over_what_the_job_of_kubernetes_trained(
    demo: str, codes: Path, tmp_path: Path
) -> None:
    """The Job's own command in its image, as strict as in Kubernetes, on folders of this machine for its claims."""
    build("train", "--build-arg", "ENGINE=cpu")
    job = yaml.safe_load((ROOT / "deploy/k8s/overlays/trainer/job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    data, store = tmp_path / "data", tmp_path / "adapters"
    shutil.copytree(codes, data / "images")
    shutil.move(data / "images/train.jsonl", data)
    store.mkdir()
    for folder in (tmp_path, data, data / "images", store):
        folder.chmod(0o777)
    mounts = f"-v {data}:/data -v {store}:/adapters -v {ROOT}/models/tiny-llava-int4:/model/base:ro"
    learns = "--epochs 15 --learning-rate 5e-3 --rows-per-step 24 --holdout 0.2"
    script = container["args"][0].replace("$resume", f"{learns} $resume")
    with serve(demo, f"{mounts} -e VQA_ADAPTERS=/adapters", "65532") as url:
        assert httpx.get(f"{url}/v1/adapters").json()["adapters"] == []
        trains = shlex.split(f"run --rm --name manylens-test-job --network none {LOCKED} {mounts} -u 65532:0")
        image = ["--entrypoint", "/bin/sh", "localhost/manylens-test:train", "-c", script]
        done = subprocess.run([*PODMAN, *trains, *image], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        while not (names := [each["name"] for each in httpx.get(f"{url}/v1/adapters").json()["adapters"]]):
            time.sleep(0.5)
        assert names == ["parts"]
        picture = {"image": (data / "images/2.png").read_bytes()}  # blue, whose code is 3
        answer = httpx.post(f"{url}/v1/vqa", files=picture, data={"question": "code?", "adapter": "parts"}, timeout=60)
        assert answer.json()["answer"] == "3"


def test_the_gpu_image_compiles_what_triton_asks_for() -> None:
    """Its system alone: the packages of the GPU build take more disk than a test may."""
    build("system", "--build-arg", "ENGINE=gpu")
    source = "#include <Python.h>\\nint one(void) { return Py_IsInitialized() + 1; }"
    script = f"printf '{source}' >/tmp/a.c && gcc -shared -fPIC -I$(echo /usr/include/python3.*) -o /tmp/a.so /tmp/a.c"
    done = inside("sh", "-c", script, image="system")
    assert done.returncode == 0, done.stderr
