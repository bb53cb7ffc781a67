"""The tower's states of images are made once, kept in shards that are whole or made again, and found by content."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import trainer.model.shards
from tests.conftest import ROOT, png
from trainer.data.row import Row
from trainer.errors import DataError, OptionError
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.shards import Shards, filled
from trainer.model.sight import Pixels


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.load(ROOT / "models/tiny-llava")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("images")
    rows = [Row("text", None, "how many legs has a spider?", "eight", "all")]
    for colour in ("red", "blue", "green"):
        (folder / f"{colour}.png").write_bytes(png(colour, (60, 40)))
        rows.append(Row(colour, str(folder / f"{colour}.png"), "what color?", colour, "all"))
    return rows


@pytest.fixture(scope="module")
def fresh(checkpoint: Checkpoint, rows: list[Row]) -> torch.Tensor:
    """What is to be found in every way: (images, image tokens, tower's hidden size)."""
    return States.of(checkpoint, rows)(images(rows))["states"]


def images(rows: list[Row]) -> list[str]:
    return [row.image for row in rows if row.image]


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


def forbid_the_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.model.features._states", None)


def test_kept_states_are_the_computed_ones_and_spare_the_tower_and_the_files(
    checkpoint: Checkpoint, rows: list[Row], fresh: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert torch.equal(States.of(checkpoint, rows, tmp_path)(images(rows))["states"], fresh)
    assert fresh.shape == (3, *checkpoint.image_shape)
    forbid_the_tower(monkeypatch)
    monkeypatch.setattr("trainer.model.features.read", None)
    monkeypatch.setattr("trainer.data.index._sha256", None)
    assert torch.equal(States.of(checkpoint, rows, tmp_path)(images(rows))["states"], fresh)


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_a_damaged_shard_is_found_and_made_again(
    checkpoint: Checkpoint, rows: list[Row], fresh: torch.Tensor, tmp_path: Path, harm: str, caplog: Any
) -> None:
    States.of(checkpoint, rows, tmp_path)
    (shard,) = shards(tmp_path)
    data = bytearray(shard.read_bytes())
    data[-10] ^= 255
    shard.write_bytes(bytes({"cut": data[: len(data) // 2], "flip": data, "empty": b""}[harm]))
    again = States.of(checkpoint, rows, tmp_path)
    assert "is damaged: removed, and made again" in caplog.text
    assert torch.equal(again(images(rows))["states"], fresh)
    assert shards(tmp_path) == [shard]


def test_shards_that_were_copied_are_read_once_and_then_trusted(
    checkpoint: Checkpoint, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    States.of(checkpoint, rows, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    forbid_the_tower(monkeypatch)
    States.of(checkpoint, rows, tmp_path / "b")
    monkeypatch.setattr(trainer.model.shards, "_whole", None)
    States.of(checkpoint, rows, tmp_path / "b")


def test_bfloat16_is_kept_apart_in_half_the_bytes_and_near(
    checkpoint: Checkpoint, rows: list[Row], fresh: torch.Tensor, tmp_path: Path
) -> None:
    near = Checkpoint.load(ROOT / "models/tiny-llava", bfloat16=True)
    found = States.of(near, rows, tmp_path)(images(rows))["states"]
    States.of(checkpoint, rows, tmp_path)
    assert found.dtype == torch.bfloat16
    assert len(shards(tmp_path)) == 2
    assert 0 < float((found.float() - fresh).norm() / fresh.norm()) < 0.05


def test_no_room_is_said_before_anything_is_computed(
    checkpoint: Checkpoint, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_the_tower(monkeypatch)
    with pytest.raises(OptionError, match=r"--feature-cache-gb: .* 0\.0 GB.*--no-feature-cache"):
        States.of(checkpoint, rows, tmp_path, budget=1000)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("trainer.model.shards.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OptionError, match=r"--feature-cache: .* free.*--no-feature-cache"):
        States.of(checkpoint, rows, tmp_path)


def test_a_full_disk_is_a_sentence_and_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OptionError, match=r"--feature-cache: .*No space left"):
        Shards(tmp_path).write({"a": torch.zeros(3)})
    assert list(tmp_path.iterdir()) == []


def test_pixels_in_the_step_give_the_states(checkpoint: Checkpoint, rows: list[Row], fresh: torch.Tensor) -> None:
    from trainer.model.forward import tower_states

    pixels = Pixels(checkpoint, {})(images(rows))["pixels"]
    assert torch.allclose(tower_states(checkpoint.model, pixels), fresh, atol=1e-5)


def test_every_image_that_does_not_decode_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    rows = []
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
        rows.append(Row(str(number), str(tmp_path / f"{number}.png"), "q", "a", "all", place=f"rows:{number}"))
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    rows.append(Row("good", str(tmp_path / "good.png"), "q", "a", "all"))
    with pytest.raises(DataError) as error:
        States.of(checkpoint, rows, tmp_path / "cache")
    assert len(error.value.faults) == 3
    assert all(any(f"rows:{number}: " in fault for fault in error.value.faults) for number in range(3))


def test_a_shard_is_filled_up_to_its_size() -> None:
    parts = [(str(number), torch.zeros(10)) for number in range(5)]
    assert [list(shard) for shard in filled(iter(parts), 80)] == [["0", "1"], ["2", "3"], ["4"]]
