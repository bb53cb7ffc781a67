"""A training that is killed and resumed ends in the very weights of one that was not."""

import json
import multiprocessing
import multiprocessing.process
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.adapters.store import Store
from tests.conftest import ROOT
from trainer.__main__ import main
from trainer.training.checkpoints import MARK


def command(codes: Path, run: Path, *options: str) -> list[str]:
    paths = ["--data", str(codes / "train.jsonl"), "--images", str(codes), "--store", str(run / "store")]
    paths += ["--model", str(ROOT / "models/tiny-llava"), "--output", str(run)]
    steps = [
        "--epochs",
        "5",
        "--rows-per-step",
        "16",
        "--learning-rate",
        "3e-3",
        "--holdout",
        "0.2",
        "--save-steps",
        "5",
    ]
    cache = ["--feature-cache", str(codes / "features"), "--precision", "float32"]
    return [sys.executable, "-m", "trainer", "train", "--name", "codes", *paths, *steps, *cache, *options]


# Processes that begin with the trainer imported: most of a short training's time is that.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["trainer.commands.train"])


@contextmanager
def started(codes: Path, run: Path, *options: str) -> Iterator[multiprocessing.process.BaseProcess]:
    """The training in a process of its own."""
    process = FORKED.Process(target=ended, args=(command(codes, run, *options)[3:],))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def ended(arguments: list[str]) -> None:
    """Run the command to its end."""
    os.chdir(ROOT)
    sys.exit(main(arguments))


def train(codes: Path, run: Path, *options: str) -> None:
    """Run the training to its end."""
    with started(codes, run, *options) as process:
        process.join()
        assert process.exitcode == 0


def weights(run: Path) -> bytes:
    return (Store(run / "store").stable("codes").path / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(codes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed")
    train(codes, run)
    return run


def kill_once(codes: Path, run: Path, after_checkpoints: int, delay_s: float, *options: str) -> None:
    """Start the training and kill it `delay_s` after its so-manieth checkpoint appeared."""
    seen: set[str] = set()
    with started(codes, run, *options) as process:
        while process.is_alive() and len(seen) < after_checkpoints:
            seen |= {path.name for path in (run / "checkpoints").glob("checkpoint-*")}
            time.sleep(0.005)
        time.sleep(delay_s)
        process.kill()


def test_killed_and_resumed_is_bitwise_undisturbed(codes: Path, undisturbed: Path, tmp_path: Path) -> None:
    kill_once(codes, tmp_path, after_checkpoints=3, delay_s=0.0)  # often in the middle of a write
    train(codes, tmp_path, "--resume")
    assert weights(tmp_path) == weights(undisturbed)


def test_pairs_killed_and_resumed_are_bitwise_undisturbed(codes: Path, tmp_path: Path) -> None:
    """The reference, kept in the run, is that of before the first update: the model that goes on is another."""
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for image in codes.glob("*.png"):
        (pairs / image.name).symlink_to(image)
    rows = [json.loads(line) for line in (codes / "train.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"chosen": row.pop("answer"), "rejected": "7"}
    (pairs / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ("--method", "dpo", "--sft-weight", "1", "--max-steps", "14")
    train(pairs, tmp_path / "whole", *options)
    kill_once(pairs, tmp_path / "killed", 1, 0.0, *options)
    written = (tmp_path / "killed/reference.npz").stat().st_mtime_ns
    train(pairs, tmp_path / "killed", *options, "--resume")
    assert (tmp_path / "killed/reference.npz").stat().st_mtime_ns == written
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_random_moments(codes: Path, undisturbed: Path, tmp_path: Path, seed: int) -> None:
    """Odd seeds kill while a checkpoint is written, even ones at any moment; and again when it goes on."""
    rng = random.Random(seed)
    for resume in ((), ("--resume",)):
        (kill_within_a_write if seed % 2 else kill_at_any_moment)(codes, tmp_path, rng, *resume)
    train(codes, tmp_path, *(["--resume"] if (tmp_path / "run.json").exists() else []))
    assert weights(tmp_path) == weights(undisturbed)


def kill_within_a_write(codes: Path, run: Path, rng: random.Random, *options: str) -> None:
    """Kill the training where a checkpoint is there and is not marked yet."""
    passed = rng.randrange(4)
    with started(codes, run, *options) as process:
        seen: set[str] = set()
        while process.is_alive() and len(seen) <= passed:
            seen |= {path.name for path in (run / "checkpoints").glob("checkpoint-*") if not (path / MARK).exists()}
            time.sleep(0.0005)
        time.sleep(rng.random() * 0.02)
        process.kill()


def kill_at_any_moment(codes: Path, run: Path, rng: random.Random, *options: str) -> None:
    """Kill the training within ten seconds of its beginning."""
    with started(codes, run, *options) as process:
        while process.is_alive() and not (run / "run.json").exists():
            time.sleep(0.005)
        time.sleep(rng.random() * 10)
        process.kill()


def test_a_cut_off_checkpoint_is_never_gone_on_from(codes: Path, undisturbed: Path, tmp_path: Path) -> None:
    kill_once(codes, tmp_path, after_checkpoints=3, delay_s=0.0)
    broken = tmp_path / "checkpoints/checkpoint-9999"
    broken.mkdir()
    (broken / "trainer_state.json").write_text("{")
    train(codes, tmp_path, "--resume")
    assert not broken.exists()
    assert weights(tmp_path) == weights(undisturbed)


LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_go_on_when_they_are_killed(
    codes: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Two gloo processes that share each update: the same curve, up to the order of additions, killed or not."""
    options = [*LAUNCH, *command(codes, tmp_path)[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(options, cwd=ROOT, start_new_session=True, env=environment) as launched:
        while launched.poll() is None and len(list((tmp_path / "checkpoints").glob(f"checkpoint-*/{MARK}"))) == 0:
            time.sleep(0.01)
        time.sleep(1)
        os.killpg(launched.pid, signal.SIGKILL)
    # What is cut off is removed by one of both; another number of processes is refused.
    (tmp_path / "checkpoints/checkpoint-9999").mkdir()
    alone = subprocess.run(command(codes, tmp_path, "--resume"), cwd=ROOT, capture_output=True)
    assert b"the number of processes was 2 and is 1 now" in alone.stderr
    resumed = subprocess.run([*options, "--resume"], cwd=ROOT, capture_output=True, env=environment, text=True)
    assert resumed.returncode == 0, resumed.stderr[-6000:]
    assert losses(tmp_path) == pytest.approx(losses(undisturbed), rel=1e-3)


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]
