"""What two processes learn by DDP, FSDP2, ZeRO-2 and ZeRO-3 is what one learns: adapters, both stages of a base.

On CPUs, over gloo: see tests/launched.py. `make test-launchers` installs DeepSpeed and runs these.
"""

import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from service.adapters.store import Store
from tests.conftest import ROOT
from tests.launched import DDP, FSDP, ONE, ZERO2, ZERO3, run, start
from trainer.training.checkpoints import complete

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="make test-launchers installs DeepSpeed"),
]
KINDS = (DDP, FSDP, ZERO2, ZERO3)
MODEL = ROOT / "models/tiny-llava"
# Relative distance of what was learnt, as the norm of the difference. In float32 processes only add in another order.
# In bfloat16 sums in another order round otherwise, and DeepSpeed keeps what learns and its gradients in it too.
FLOAT32, BFLOAT16 = 1e-3, 0.15
# A base is written in bfloat16, which rounds a few weights to the other side.
WRITTEN = 1e-2


class Trainings:
    """Runs of the same rows, each made once."""

    def __init__(self, codes: Path, folder: Path) -> None:
        self.codes, self.folder = codes, folder

    def rows(self) -> list[str]:
        rows = ["--data", str(self.codes / "train.jsonl"), "--images", str(self.codes), "--holdout", "0.2"]
        return [*rows, "--rows-per-step", "24", "--log-steps", "1", "--feature-cache", str(self.folder / "features")]

    def adapter(self, kind: str, name: str, *options: str) -> tuple[list[str], Path]:
        """The command that trains an adapter, and its run's directory."""
        output = self.folder / f"{name}-{kind}"
        paths = ["--store", str(output / "store"), "--output", str(output), "--model", str(MODEL)]
        learns = ["--learning-rate", "5e-3", "--epochs", "3", "--gate", "loss", "--score-rows", "12"]
        return ["train", "--name", "codes", *self.rows(), *paths, *learns, *options], output

    def train(self, kind: str, precision: str) -> Path:
        command, output = self.adapter(kind, precision, "--precision", precision)
        if not (output / "learnt").exists():
            run(kind, command, self.folder / f"{output.name}.log")
        return output

    def base(self, kind: str, stage: str, precision: str) -> Path:
        output = self.folder / f"{stage}-{kind}"
        if not output.exists():
            options = [
                "--precision",
                precision,
                "--max-steps",
                "3",
                "--learning-rate",
                "1e-3",
                "--output",
                str(output),
                "--model",
                str(MODEL),
            ]
            run(kind, ["base", stage, *self.rows(), *options], self.folder / f"{output.name}.log")
        return output


@pytest.fixture(scope="module")
def trainings(codes: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(codes, tmp_path_factory.mktemp("launchers"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_two_processes_is_one_s_and_published(trainings: Trainings, kind: str) -> None:
    one, two = (trainings.train(each, "float32") for each in (ONE, kind))
    assert apart(adapter(two), adapter(one)) < FLOAT32
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert sorted(adapter(two)) == sorted(adapter(one))


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_in_bfloat16_it_is_one_s(trainings: Trainings, kind: str) -> None:
    options = ("--precision", "bfloat16", "--save-steps", "3")
    command, output = trainings.adapter(kind, "bfloat16", *options)
    processes = start(kind, command, trainings.folder / f"killed-{kind}.log")
    while not complete(output) and all(process.is_alive() for process in processes):
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.join()
    assert complete(output)
    assert not (output / "learnt").exists()
    run(kind, [*command, "--resume"], trainings.folder / f"resumed-{kind}.log")
    one = trainings.train(ONE, "bfloat16")
    assert apart(adapter(output), adapter(one)) < BFLOAT16
    assert losses(output) == pytest.approx(losses(one), abs=5e-2)
    assert [path.name for path in (output / "checkpoints").iterdir()] == [complete(output)[-1].name]


@pytest.mark.parametrize("stage", ["align", "tune"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_base_of_two_processes_is_one_s(trainings: Trainings, kind: str, stage: str) -> None:
    """Of what was learnt: the tensors' distance from the base that was begun with."""
    began = tensors(MODEL)
    one, two = (tensors(trainings.base(each, stage, "float32")) for each in (ONE, kind))
    assert one.keys() == two.keys() == began.keys()
    learnt = [{name: each[name].float() - began[name].float() for name in began} for each in (two, one)]
    assert any(bool(tensor.any()) for tensor in learnt[1].values())
    assert apart(*learnt) < WRITTEN


def adapter(run: Path) -> dict[str, torch.Tensor]:
    """The published one."""
    return dict(load_file(Store(run / "store").stable("codes").path / "adapter_model.safetensors"))


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in checkpoint.glob("*.safetensors") for name, tensor in load_file(file).items()}


def apart(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """Norm of the difference, relative to that of `others`."""
    difference = sum(float((some[name].float() - others[name].float()).square().sum()) for name in others)
    return float((difference / sum(float(tensor.float().square().sum()) for tensor in others.values())) ** 0.5)


def losses(run: Path) -> list[float]:
    points: list[dict[str, Any]] = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [point[name] for point in points for name in ("loss", "eval_loss") if name in point]
