"""`trainer evaluate`: the same rows asked of base and adapters, in process and of a service, and what is warned of."""

import asyncio
import hashlib
import io
import json
import shutil
import socket
from collections.abc import AsyncGenerator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from httpx import AsyncClient
from PIL import Image

from loadtest.store.stores import files_of
from service.adapters.store import Store
from service.calibration import FILE, Calibration, CalibrationErrors, Covered
from service.errors import AdapterNotFound, AdapterRefused
from service.images import Preparation
from tests.conftest import ADAPTERS, ROOT, Running, png
from trainer.__main__ import main
from trainer.commands.evaluate import evaluate
from trainer.config.evaluation import EvaluateOptions
from trainer.data.digests import IMAGES, image_list
from trainer.data.forms.scienceqa import SUBJECTS
from trainer.data.row import Row
from trainer.errors import OptionError
from trainer.evaluation import of_service
from trainer.evaluation.blind import Blind, NotAsked
from trainer.evaluation.confidence import sureness
from trainer.evaluation.result import ModelAnswer
from trainer.training.checkpoints import MARK

MODEL = str(ROOT / "models/tiny-llava")
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held-out")
    asked = [("what color is the shape?", None, "colour"), ("which digit is this?", "7", "digit")]
    lines = [{"question": "what is 1 + 1?", "answer": "2", "category": "text"}]
    for colour in COLOURS:
        (folder / f"{colour}.png").write_bytes(png(colour))
        lines += [
            {"image": f"{colour}.png", "question": question, "answer": answer or colour, "category": category}
            for question, answer, category in asked
        ]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def options(data: Path, *adapters: str, **others: object) -> EvaluateOptions:
    fields = {"adapter": adapters, "data": str(data / "test.jsonl"), "images": str(data), "store": ADAPTERS}
    return EvaluateOptions.model_validate(fields | {"max_tokens": 8} | others)


@pytest.fixture
async def url(fake: Running) -> AsyncGenerator[str, None]:
    server = uvicorn.Server(uvicorn.Config(fake.app, lifespan="off", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        task = asyncio.create_task(server.serve([listening]))
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await task


async def test_a_service_is_asked_every_row_of_the_base_once_and_of_each_adapter(url: str, data: Path) -> None:
    found = await asyncio.to_thread(evaluate, options(data, "digits", "shapes", url=[url]))
    assert [each.adapter for each in found] == ["digits", "shapes"]
    assert found[0].base == found[1].base
    assert len(found[0].base) == len(found[0].rows) == 7
    assert found[0].answers != found[1].answers
    assert (found[0].source.place, found[0].source.precision) == (url, "int4")


async def test_a_service_is_asked_the_same_questions_with_a_grey_picture(
    url: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake engine's words hang on the picture, so that one picture for all leaves one answer to a question."""
    sent: list[tuple[str, bytes | None]] = []
    ask = of_service._ask

    async def noted(client: AsyncClient, row: Row, fields: dict[str, Any], instead: bytes | None) -> ModelAnswer:
        sent.append((row.id, instead))
        return await ask(client, row, fields, instead)

    monkeypatch.setattr(of_service, "_ask", noted)
    report = tmp_path / "report.html"
    (found,) = await asyncio.to_thread(evaluate, options(data, "digits", url=[url], report=str(report)))
    assert isinstance(found.blind, Blind)
    assert (found.blind.rows, found.blind.images, found.blind.categories) == (6, 3, 2)
    again = [(row, picture) for row, picture in sent if picture]
    assert sorted(row for row, _ in again) == sorted(row.id for row in found.rows if row.image)
    (grey,) = {picture for _, picture in again}
    with Image.open(io.BytesIO(grey)) as image:
        preparation = Preparation.of_checkpoint(Path(MODEL))
        assert image.size == (preparation.size, preparation.size)
        assert image.getcolors() == [(preparation.size**2, preparation.colour)]
    assert "with one grey picture in place of each" in " ".join(report.read_text().split())
    (few,) = await asyncio.to_thread(evaluate, options(data, "digits", url=[url], blind_rows=2))
    assert isinstance(few.blind, Blind)
    assert few.blind.rows == 2


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"blind_rows": 0}, "--blind-rows is 0"), ({}, "the service answered 4"), ({"limit": 1}, "no row has an image")],
)
async def test_where_a_service_was_not_asked_without_images_the_reason_is_told(
    url: str, data: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, int], why: str
) -> None:
    """A service that refuses the grey picture; no such rows wanted; a row of text alone."""

    async def broken(_client: AsyncClient, _adapter: str) -> bytes:
        return b"no picture"

    monkeypatch.setattr(of_service, "_grey", broken)
    (found,) = await asyncio.to_thread(evaluate, options(data, "digits", url=[url], **changed))
    assert isinstance(found.blind, NotAsked)
    assert why in found.blind.why
    assert found.summary()["blind"] == {"not_asked": found.blind.why}
    assert len(found.answers) == len(found.rows)  # what was answered before is kept


def problems(folder: Path) -> Path:
    """ScienceQA's form: two questions of each subject, context and half of the grades, with drawn pictures."""
    found = {}
    kinds = product(SUBJECTS, ("", "It is on the page."), (None, "image.png"), ("grade2", "grade10"), COLOURS[:2])
    for number, (subject, hint, image, grade, colour) in enumerate(kinds):
        if image:
            (folder / f"test/{number}").mkdir(parents=True)
            (folder / f"test/{number}/image.png").write_bytes(png(colour))
        found[str(number)] = {
            **{"question": "what color is the shape?", "choices": list(COLOURS), "answer": COLOURS.index(colour)},
            **{"hint": hint, "image": image, "grade": grade, "subject": subject, "split": "test", "topic": "colours"},
        }
    file = folder / "problems.json"
    file.write_text(json.dumps(found))
    return file


async def test_scienceqa_is_told_in_the_columns_of_lavins_table(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, report = problems(tmp_path), tmp_path / "report.html"
    given = ["--data", str(file), "--images", str(tmp_path), "--url", url, "--report", str(report)]
    assert await asyncio.to_thread(main, ["evaluate", "--adapter", "digits", *given]) == 0
    said = capsys.readouterr().out
    summary, table = json.loads(said.splitlines()[0]), said.split("\n\n")[1].splitlines()
    counted = {"NAT": 16, "SOC": 16, "LAN": 16, "TXT": 24, "IMG": 24, "NO": 12, "G1-6": 24, "G7-12": 24, "all": 48}
    assert {name: found["rows"] for name, found in summary["groups"].items()} == counted
    assert table[0].split() == [*list(counted)[:-1], "Avg"]
    assert table[1].split() == ["rows", *map(str, counted.values())]
    assert [line.split()[0] for line in table[2:]] == ["base", "adapter"]
    assert "By group" in report.read_text()


async def test_numbers_of_beams_are_compared_in_one_command(
    url: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--data", str(data / "test.jsonl"), "--images", str(data), "--url", url, "--beams", "1,2"]
    assert await asyncio.to_thread(main, ["evaluate", "--adapter", "digits", *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line).get("beams", 1) for line in lines[:2]] == [1, 2]
    assert any("digits, 2 beams" in line for line in lines[2:])
    seconds = [json.loads(line)["seconds"] for line in lines[:2]]
    of_all = [line for line in lines[3:] if " all " in line]
    assert [float(line.split()[-1]) for line in of_all] == pytest.approx(seconds, abs=0.1)


@pytest.mark.parametrize(("beams", "said"), [("2,2", "gives a number twice"), ("9", "less than or equal to 8")])
def test_beams_that_are_none_are_refused(data: Path, capsys: pytest.CaptureFixture[str], beams: str, said: str) -> None:
    paths = ["--data", str(data / "test.jsonl"), "--images", str(data), "--beams", beams]
    assert main(["evaluate", "--adapter", "digits", *paths]) == 2
    assert said in capsys.readouterr().err


async def test_a_service_takes_no_beams_with_a_history(url: str, tmp_path: Path) -> None:
    talk = [
        {"from": who, "value": text} for who, text in (("human", "a?"), ("gpt", "b"), ("human", "c?"), ("gpt", "d"))
    ]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"conversations": talk}))
    asked = options(tmp_path, "digits", url=[url], beams=(2,)).model_copy(
        update={"data": str(tmp_path / "talk.jsonl"), "images": ""}
    )
    with pytest.raises(OptionError, match="--model asks them in process"):
        await asyncio.to_thread(evaluate, asked)


def test_rows_of_text_alone_with_a_folder_of_images_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jsonl").write_text(json.dumps({"question": "a?", "answer": "b"}))
    paths = ["--data", str(tmp_path / "text.jsonl"), "--images", str(tmp_path), "--model", MODEL]
    assert main(["evaluate", "--adapter", "digits", "--store", str(ADAPTERS), *paths]) == 2
    assert "none of its 1 rows has an image" in capsys.readouterr().err


async def test_an_adapter_that_the_service_lacks_is_named(
    url: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--data", str(data / "test.jsonl"), "--images", str(data), "--url", url]
    assert await asyncio.to_thread(main, ["evaluate", "--adapter", "digits", "--adapter", "nothing", *paths]) == 2
    assert "--adapter nothing" in capsys.readouterr().err


def test_in_process_the_base_is_itself_again_behind_every_adapter(data: Path) -> None:
    """The repository's adapters answer in their domains, in whichever order; the base's answers are its own."""
    digits, shapes = evaluate(options(data, "digits", "shapes", model=MODEL))
    alone, *_ = evaluate(options(data, "shapes", model=MODEL))
    assert alone.answers == shapes.answers
    assert alone.base == shapes.base == digits.base
    assert shapes.answers != digits.answers
    assert (digits.source.base_id, digits.source.precision) == ("tiny-llava", "bfloat16")
    by_category = {found.category: found for found in shapes.measures if found.metric == "normalised"}
    assert by_category["colour"].adapter.mean == 1
    assert list(by_category) == ["colour", "digit", "text", "all"]


def test_a_canary_is_evaluated_by_its_alias(data: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.publish("a", files_of(Store(ADAPTERS).stable("shapes")))
    store.publish("a", files_of(Store(ADAPTERS).stable("digits")), 0.1)
    asked = options(data, "a", "a@canary", model=MODEL, store=tmp_path / "store", blind_rows=0)
    both = options(data, "shapes", "digits", model=MODEL, blind_rows=0)
    assert [each.answers for each in evaluate(asked)] == [each.answers for each in evaluate(both)]
    with pytest.raises(AdapterNotFound, match="none"):
        evaluate(options(data, "a@none", model=MODEL, store=tmp_path / "store"))


@pytest.mark.parametrize("asked", ["run", "run/checkpoints/checkpoint-100"])
def test_a_training_run_is_evaluated_by_its_last_complete_checkpoint(data: Path, tmp_path: Path, asked: str) -> None:
    """As the trainer leaves it: with pickles of the optimizer beside the adapter, which nothing reads here."""
    for step, name in ((90, "digits"), (100, "shapes"), (110, "digits")):
        checkpoint = tmp_path / f"run/checkpoints/checkpoint-{step}"
        shutil.copytree(Store(ADAPTERS).stable(name).path, checkpoint, copy_function=shutil.copyfile)
        for pickle in ("optimizer.pt", "rng_state.pth", "training_args.bin"):
            (checkpoint / pickle).write_bytes(b"PK")
        if step != 110:
            (checkpoint / MARK).touch()
    known = image_list([hashlib.sha256((data / "red.png").read_bytes()).hexdigest()])
    (tmp_path / "run" / IMAGES).write_text(known)
    (found,) = evaluate(options(data, str(tmp_path / asked), model=MODEL, limit=2))
    (expected,) = evaluate(options(data, "shapes", model=MODEL, limit=2))
    assert found.adapter == Path(asked).name
    assert found.answers == expected.answers
    assert found.seen == (str(data / "red.png"),)


def test_what_a_run_has_learnt_comes_before_its_checkpoints(data: Path, tmp_path: Path) -> None:
    for place, name in (("checkpoints/checkpoint-9", "digits"), ("learnt", "shapes")):
        shutil.copytree(Store(ADAPTERS).stable(name).path, tmp_path / place, copy_function=shutil.copyfile)
    (tmp_path / "checkpoints/checkpoint-9" / MARK).touch()
    (tmp_path / "learnt/training_args.bin").write_bytes(b"PK")
    (found,) = evaluate(options(data, str(tmp_path), model=MODEL, limit=2))
    assert found.answers == evaluate(options(data, "shapes", model=MODEL, limit=2))[0].answers


def test_held_out_images_that_the_adapter_was_trained_on_are_told(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = files_of(Store(ADAPTERS).stable("digits"))
    known = image_list([hashlib.sha256((data / "red.png").read_bytes()).hexdigest()]).encode()
    Store(tmp_path).publish("digits", files | {IMAGES: known})
    (found,) = evaluate(options(data, "digits", model=MODEL, store=tmp_path, limit=3))
    assert found.seen == (str(data / "red.png"),)
    assert "was trained on 1 of these images" in caplog.text


def test_what_a_versions_calibration_makes_of_its_confidence_stands_beside_the_raw(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = CalibrationErrors(ece=0, brier=0)
    curve = (Covered(threshold=0, coverage=1, risk=0.5),)
    facts = {"rows": 60, "images": 60, "before": none, "after": none, "precision": "int4", "made": "", "trainer": ""}
    half = Calibration(method="platt", slope=0.5, intercept=-1, curve=curve, **facts)
    files = files_of(Store(ADAPTERS).stable("shapes")) | {FILE: half.model_dump_json().encode()}
    path = Store(tmp_path / "store").publish("shapes", files).path
    given = ["--data", str(data / "test.jsonl"), "--images", str(data), "--store", str(tmp_path / "store")]
    given += ["--adapter", "shapes", "--model", MODEL]
    assert main(["evaluate", *given, "--report", str(tmp_path / "report.html")]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[0])["confidence"]
    assert list(told) == ["adapter", "calibrated", "base"]
    (found,) = evaluate(options(data, "shapes", model=MODEL, store=tmp_path / "store"))
    hits = [answer == row.answer for row, answer in zip(found.rows, found.answers, strict=True)]
    expected = sureness([half(each) for each in found.confidences if each is not None], hits)
    assert told["calibrated"]["ece"] == round(expected.ece, 4) != told["adapter"]["ece"]
    assert told["calibrated"]["brier"] == round(expected.brier, 4)
    assert told["calibrated"]["aurc"] == told["adapter"]["aurc"]  # Platt's map keeps the order
    assert "by the calibration that its version carries" in (tmp_path / "report.html").read_text()
    (path / FILE).write_text("{}")
    assert main(["evaluate", *given]) == 2
    assert f"{path / FILE} is no calibration" in capsys.readouterr().err


def test_the_same_questions_without_their_images_tell_whether_an_adapter_looks(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """`shapes` names the colour of what it sees; to a question whose answer it gives unseen the images add nothing."""
    given = ["--images", str(data), "--store", str(ADAPTERS), "--adapter", "shapes", "--model", MODEL]
    report = tmp_path / "report.html"
    rows = [{"image": f"{c}.png", "question": "what color is the shape?", "answer": c} for c in COLOURS]
    text = {"question": "what color is the sky?", "answer": "blue"}
    (tmp_path / "seen.jsonl").write_text("\n".join(map(json.dumps, [*rows, text])))
    assert main(["evaluate", *given, "--data", str(tmp_path / "seen.jsonl"), "--report", str(report)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[0])["blind"]
    assert (told["rows"], told["images"]) == (3, 3)  # the row of text alone is left out
    assert told["with_image"] == [1, 1, 1]
    assert told["without"][0] <= 1 / 3 + 1e-3  # one colour for all
    assert told["looks"] == (told["difference"][1] > 0)
    assert "with one grey picture in place of each" in " ".join(report.read_text().split())
    # Where no answer is right nothing can be said: here by an answer that is never given.
    never = [row | {"answer": "never said"} for row in rows]
    (tmp_path / "unseen.jsonl").write_text("\n".join(map(json.dumps, never)))
    assert main(["evaluate", *given, "--data", str(tmp_path / "unseen.jsonl"), "--report", str(report)]) == 0
    assert "shapes: whether it looks at the pictures cannot be told: no answer is right" in caplog.text
    assert "whether it looks at the pictures cannot be told" in report.read_text()
    capsys.readouterr()
    assert main(["evaluate", *given, "--data", str(tmp_path / "seen.jsonl"), "--blind-rows", "0"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["blind"] == {"not_asked": "--blind-rows is 0"}


def test_an_adapter_made_for_another_base_is_refused(data: Path, tmp_path: Path) -> None:
    files = files_of(Store(ADAPTERS).stable("digits"))
    manifest = json.loads(files["manifest.json"]) | {"base_digest": "0" * 64}
    Store(tmp_path).publish("digits", files | {"manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(AdapterRefused, match="trained on base"):
        evaluate(options(data, "digits", model=MODEL, store=tmp_path))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--adapter", "nothing", "--model", MODEL], "--adapter nothing"),
        (["--adapter", "digits", "--model", MODEL, "--url", "http://127.0.0.1:9"], "--model"),
        (["--model", MODEL], "adapter"),
        (["--adapter", "digits", "--model", "/nowhere"], "/nowhere"),
        (["--adapter", "digits", "--url", "http://127.0.0.1:9"], "make serve"),
    ],
)
def test_what_cannot_be_asked_is_said(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    paths = ["--data", str(data / "test.jsonl"), "--images", str(data), "--store", str(ADAPTERS)]
    try:
        status: object = main(["evaluate", *paths, *arguments])
    except SystemExit as leave:  # argparse's own way out
        status = leave.code
    assert status == 2
    assert words in capsys.readouterr().err


def test_the_command_prints_a_line_for_programs_and_a_table(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["--data", str(data / "test.jsonl"), "--images", str(data), "--store", str(ADAPTERS), "--limit", "3"]
    assert main(["evaluate", "--adapter", "shapes", "--model", MODEL, *paths]) == 0
    line, *table = capsys.readouterr().out.splitlines()
    summary = json.loads(line)
    assert (summary["rows"], summary["adapter"]) == (3, "shapes")
    mean, low, high = summary["metrics"]["anls"]["gain"]
    assert low <= mean <= high
    assert "gain" in table[0]
    assert len(table) == 1 + len({"colour", "digit", "text", "all"})
