"""`trainer calibrate`: the same adapter as a version of its own, with what its confidence is worth on held-out rows."""

import hashlib
import json
from pathlib import Path

import pytest

from loadtest.store.stores import files_of
from service.adapters.store import Store
from service.calibration import FILE, read_calibration
from tests.conftest import ADAPTERS, ROOT
from trainer.__main__ import main
from trainer.data.digests import IMAGES, image_list

MODEL = str(ROOT / "models/tiny-llava")
COLOURS = ("red", "green", "blue", "black", "orange", "purple")


@pytest.fixture
def held_out(codes: Path, tmp_path: Path) -> Path:
    """The colours of 40 discs, which the adapter `shapes` tells, and of 20 a number, of which it knows nothing."""
    lines = [
        {"image": f"{n}.png", "question": "what color is the shape?", "answer": COLOURS[n % len(COLOURS)]}
        if n < 40
        else {"image": f"{n}.png", "question": "what is the code?", "answer": "99"}
        for n in range(60)
    ]
    (tmp_path / "held-out.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "held-out.jsonl"


def run(held_out: Path, codes: Path, store: Path, *more: str, adapter: str = "shapes") -> int:
    given = ["--adapter", adapter, "--data", str(held_out), "--images", str(codes), "--store", str(store)]
    return main(["calibrate", *given, *more])


def test_a_new_version_has_the_calibration_and_the_old_weights(held_out: Path, codes: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    files = {name: content for name, content in files_of(Store(ADAPTERS).stable("shapes")).items() if name != FILE}
    before = Store(store).publish("shapes", files)
    assert run(held_out, codes, store, "--model", MODEL) == 0
    after = Store(store).stable("shapes")
    assert after.version != before.version
    assert before.path.is_dir()  # to roll back to
    found = files_of(after)
    assert {name: content for name, content in found.items() if name != FILE} == files
    calibration = read_calibration(after.path)
    assert calibration is not None
    assert (calibration.method, calibration.rows, calibration.images) == ("platt", 60, 60)
    assert calibration.precision == "bfloat16"
    assert calibration.curve[-1].coverage == 1
    # Once more replaces it, and leaves one.
    assert run(held_out, codes, store, "--model", MODEL, "--score-rows", "55") == 0
    again = read_calibration(Store(store).stable("shapes").path)
    assert again is not None
    assert again.rows == 55


def test_a_canary_is_calibrated_in_its_place_and_keeps_its_share(held_out: Path, codes: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    files = {name: content for name, content in files_of(Store(ADAPTERS).stable("shapes")).items() if name != FILE}
    stable = store.publish("shapes", files)
    assert run(held_out, codes, tmp_path / "store", "--model", MODEL, adapter="shapes@canary") == 2  # there is none yet
    canary = store.publish("shapes", files | {"README.md": b"another"}, 0.2)
    assert run(held_out, codes, tmp_path / "store", "--model", MODEL, adapter="shapes@canary") == 0
    named = store.catalog().shelves["shapes"].aliases.named
    assert named["stable"].version == stable.version
    assert named["canary"].version not in (stable.version, canary.version)
    assert named["canary"].weight == 0.2
    found = store.named("shapes", "canary")
    assert files_of(found)["README.md"] == b"another"
    assert read_calibration(found.path) is not None


def test_images_that_the_adapter_was_trained_on_are_left_out(
    held_out: Path, codes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """With half of them left there are too few rows, which is said in numbers, and nothing is published."""
    caplog.set_level("INFO")
    trained = [hashlib.sha256((codes / f"{n}.png").read_bytes()).hexdigest() for n in range(30)]
    files = files_of(Store(ADAPTERS).stable("shapes")) | {IMAGES: image_list(trained).encode()}
    before = Store(tmp_path / "store").publish("shapes", files)
    assert run(held_out, codes, tmp_path / "store", "--model", MODEL) == 2
    assert "30 of 60 rows are about images that shapes was trained on" in caplog.text
    assert "30 answers with a confidence" in capsys.readouterr().err
    assert Store(tmp_path / "store").stable("shapes") == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model", MODEL, "--url", "http://127.0.0.1:9"], "--model"),
        (["--url", "http://127.0.0.1:9"], "make serve"),
        (["--store", "/nowhere/at/all"], "/nowhere"),
    ],
)
def test_what_cannot_be_asked_is_said(
    held_out: Path, codes: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    assert run(held_out, codes, ADAPTERS, *more) == 2
    assert words in capsys.readouterr().err
