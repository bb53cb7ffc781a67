"""The JobSet's own command, run as its two pods run it, on CPUs: they meet, train, publish, and go on after a kill.

Of the command of deploy/k8s/overlays/trainer-nodes only what this machine lacks is put in its place: folders for
mounted claims, 127.0.0.1 for the first pod's name, gloo and the CPU for nccl and a GPU.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from service.adapters.store import Store
from tests.balancers import free_port
from tests.conftest import ROOT
from trainer.training.checkpoints import complete

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PODS = 2


def command(data: Path, store: Path, port: int) -> list[str]:
    """The container's, with this machine's places."""
    jobset = yaml.safe_load((ROOT / "deploy/k8s/overlays/trainer-nodes/jobset.yaml").read_text())
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completions"] == job["parallelism"] == PODS
    (container,) = job["template"]["spec"]["containers"]
    first = f"{jobset['metadata']['name']}-node-0-0.{jobset['metadata']['name']}"
    places = {first: "127.0.0.1", "29500": str(port), "/data/": f"{data}/", "/adapters": str(store)}
    places |= {"/model/base": str(ROOT / "models/tiny-llava")}
    text = container["args"][0]
    for there, here in places.items():
        assert there in text
        text = text.replace(there, here)
    more = "--rows-per-step 24 --learning-rate 5e-3 --epochs 8 --save-steps 4 --score-rows 12 --gate loss"
    return [*container["command"], text.replace("$resume", f"{more} $resume")]


def started(shell: list[str], log: Path) -> list[subprocess.Popen[bytes]]:
    """Both pods, the second a little later, as pods come."""
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    pods = []
    for index in range(PODS):
        with Path(f"{log}.{index}").open("wb") as out:
            own = environment | {"JOB_COMPLETION_INDEX": str(index)}
            pods.append(subprocess.Popen(shell, env=own, stdout=out, stderr=out))
        time.sleep(3)
    return pods


def ended(pods: list[subprocess.Popen[bytes]], log: Path) -> None:
    """Wait for both; one that fails fails the test, with what it wrote."""
    statuses = [pod.wait(600) for pod in pods]
    assert statuses == [0] * PODS, Path(f"{log}.{statuses.index(max(statuses))}").read_text()[-6000:]


def kill(pod: subprocess.Popen[bytes]) -> None:
    """As a node that is lost: the launcher and all that it started, which has sessions of its own."""
    every = [*psutil.Process(pod.pid).children(recursive=True), psutil.Process(pod.pid)]
    for process in every:
        process.kill()
    psutil.wait_procs(every)
    pod.wait()


def test_two_pods_train_and_publish_and_go_on_after_a_kill(codes: Path, tmp_path: Path) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    data.mkdir()
    (data / "train.jsonl").symlink_to(codes / "train.jsonl")
    (data / "images").symlink_to(codes)
    run = data / "runs/parts"
    pods = started(command(data, store, free_port()), tmp_path / "killed")
    while not complete(run) and all(pod.poll() is None for pod in pods):
        time.sleep(0.05)
    for pod in pods:
        kill(pod)
    assert complete(run), (tmp_path / "killed.0").read_text()[-6000:]
    assert not store.exists() or not Store(store).names()
    ended(started(command(data, store, free_port()), tmp_path / "resumed"), tmp_path / "resumed")
    assert Store(store).names() == ["parts"]
