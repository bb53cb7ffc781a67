"""What was asked and corrected becomes sets that the trainer's check accepts; nothing of it ever fails a request."""

import asyncio
import io
import json
import os
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.__main__ import main as serve
from service.capture import Rules
from service.capture.files import Files, Record, is_row_text
from service.engine.fake import FakeEngine
from service.images import decode, picture
from service.settings import Settings
from tests.conftest import Running, png, serving
from tests.test_auth import bearer, write
from tests.test_http_edge import assert_error, data_url
from trainer.__main__ import main
from trainer.data.rows import read_rows

RECORD = Record("vqa-1", "", None, None, "what?", "a cat", 0.5)


def without_names(record: Record) -> Record | None:
    """A redaction hook: hides a name, and keeps nothing of what is secret."""
    return None if "secret" in record.question else replace(record, question=record.question.replace("Ann", "N."))


def broken(record: Record) -> Record | None:
    raise KeyError(record.question)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
async def keeping(fake_adapters: Path, kept: Path) -> AsyncGenerator[Running, None]:
    async with serving(Settings(adapters=fake_adapters, capture=kept), FakeEngine()) as running:
        yield running


async def ask(running: Running, question: str = "what is it?", **fields: Any) -> dict[str, Any]:
    headers = fields.pop("headers", {})
    body = {"question": question, "image": data_url(png())} | fields
    answer: dict[str, Any] = (
        (await running.client.post("/v1/vqa", json=body, headers=headers)).raise_for_status().json()
    )
    return answer


async def correct(running: Running, id_: str, answer: str = "a cat", **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    return await running.client.post("/v1/feedback", json={"id": id_, "answer": answer} | more, headers=headers)


async def settled(running: Running) -> None:
    """Until what was answered is written."""
    await running.app.state.service.vqa.capture.stop()


def rows(kept: Path, kind: str) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files(kept, f"{kind}-*.jsonl") for line in file.read_text().splitlines()]


def files(kept: Path, pattern: str) -> list[Path]:
    return list(kept.glob(f"*/{pattern}"))


def accepted(kept: Path) -> int:
    """How many files the trainer's own check accepted; one that it refuses is an error."""
    found = files(kept, "*.jsonl")
    for file in found:
        pictured = '"image"' in file.read_text()
        images = ["--images", str(file.parent / "images")] if pictured else []
        assert main(["data", "check", "--data", str(file), *images]) == 0
    return len(found)


async def test_questions_and_corrections_become_sets_the_trainer_accepts(keeping: Running, kept: Path) -> None:
    first = await ask(keeping, adapter="digits")
    await ask(keeping, "and here?", image=data_url(png("blue", file_format="JPEG"), "jpeg"))
    await ask(keeping, "no image at all?", image=None)
    assert (await correct(keeping, first["id"], " a cat ", comment="not a dog")).status_code == 204
    await settled(keeping)
    assert accepted(kept) == 2
    (right,) = rows(kept, "corrections")
    assert (
        right.items()
        >= {
            "request": first["id"],
            "question": "what is it?",
            "answer": "a cat",
            "said": first["answer"],
            "comment": "not a dog",
            "adapter": "digits",
            "version": first["adapter"]["version"],
        }.items()
    )
    asked = {row["question"]: row for row in rows(kept, "questions")}
    assert asked.keys() == {"what is it?", "and here?", "no image at all?"}
    assert asked["what is it?"]["answer"] == first["answer"]
    assert asked["what is it?"]["image"] == right["image"]
    assert "image" not in asked["no image at all?"]


async def test_the_image_kept_is_the_picture_the_model_saw_and_the_same_one_is_kept_once(
    keeping: Running, kept: Path
) -> None:
    photo, exif = io.BytesIO(), Image.Exif()
    exif[0x010E] = "taken at home"
    Image.open(io.BytesIO(png(size=(200, 100)))).save(photo, "JPEG", exif=exif)
    for _ in range(2):
        await ask(keeping, image=data_url(photo.getvalue(), "jpeg"))
    await settled(keeping)
    (image,) = files(kept, "images/*")
    assert b"taken at home" not in image.read_bytes()
    seen = picture(photo.getvalue(), keeping.app.state.service.vqa.pictures.preparation).image
    assert decode(image.read_bytes()).tobytes() == seen.tobytes()
    assert {row["image"] for row in rows(kept, "questions")} == {image.name}


async def test_by_default_nothing_is_kept(fake: Running) -> None:
    answer = await ask(fake)
    assert "keeps no questions" in assert_error(await correct(fake, answer["id"]), 404, "question_not_found")
    assert fake.app.state.service.vqa.capture is None


async def test_feedback_is_on_questions_that_are_known(keeping: Running) -> None:
    answer = await ask(keeping)
    for unknown in ("vqa-nope", answer["id"][:-1], "*"):
        assert_error(await correct(keeping, unknown), 404, "question_not_found")
    for wrong in ({"answer": "  "}, {"answer": "<image>"}, {"comment": 3}, {"typo": 1}):
        assert_error(await correct(keeping, answer["id"], **wrong), 422, "invalid_request")
    assert_error(await correct(keeping, answer["id"], answer="x" * 2001), 413, "text_too_long")
    assert_error(await correct(keeping, answer["id"], answer="a\0b"), 400, "malformed_request")


async def test_a_tenant_corrects_its_own_questions_only(fake_adapters: Path, kept: Path, tmp_path: Path) -> None:
    keys = write(tmp_path / "keys.json", {"one": {}, "two": {}})
    async with serving(Settings(adapters=fake_adapters, capture=kept, keys=keys), FakeEngine()) as running:
        answer = await ask(running, headers=bearer("one"))
        assert_error(await correct(running, answer["id"], headers=bearer("two")), 404, "question_not_found")
        assert_error(await correct(running, answer["id"]), 401, "unauthorized")
        assert (await correct(running, answer["id"], headers=bearer("one"))).status_code == 204
    assert [row["tenant"] for row in rows(kept, "corrections")] == ["one"]


async def test_what_can_be_no_row_is_answered_and_not_kept(keeping: Running, kept: Path) -> None:
    await ask(keeping, "what is <image>?")
    await ask(keeping, image=None, images=[data_url(png()), data_url(png("blue"))])
    turns = [{"role": role, "content": f"the {role}'s words"} for role in ("user", "assistant", "user")]
    chat = {"model": "digits", "messages": turns}
    (await keeping.client.post("/v1/chat/completions", json=chat)).raise_for_status()
    await settled(keeping)
    assert rows(kept, "questions") == []
    assert 'vqa_captured_total{outcome="skipped"} 3.0' in (await keeping.client.get("/metrics")).text


async def test_the_operators_hook_sees_every_row_first(fake_adapters: Path, kept: Path) -> None:
    hook = "tests.test_capture.without_names"
    async with serving(Settings(adapters=fake_adapters, capture=kept, capture_redact=hook), FakeEngine()) as running:
        await ask(running, "the secret?")
        answer = await ask(running, "is Ann here?")
        assert (await correct(running, answer["id"])).status_code == 204
    assert [row["question"] for row in rows(kept, "questions") + rows(kept, "corrections")] == ["is N. here?"] * 2


async def test_a_hook_that_fails_keeps_nothing_and_fails_no_question(
    fake_adapters: Path, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hook = "tests.test_capture.broken"
    async with serving(Settings(adapters=fake_adapters, capture=kept, capture_redact=hook), FakeEngine()) as running:
        await ask(running, "is Ann here?")
        await settled(running)
        assert 'vqa_captured_total{outcome="failed"} 1.0' in (await running.client.get("/metrics")).text
    assert not files(kept, "*.jsonl")
    assert "Ann" not in caplog.text


def test_a_hook_that_is_nowhere_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(["--capture-redact", "no.such"]) == 2
    assert "VQA_CAPTURE_REDACT" in capsys.readouterr().err


async def test_a_full_disk_fails_no_question_and_leaves_no_half_row(
    keeping: Running, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await ask(keeping)
    await settled(keeping)
    whole = os.write

    def half(to: int, data: bytes) -> int:
        return whole(to, data[:9] if data.startswith(b'{"request"') else data)

    monkeypatch.setattr(os, "write", half)
    await ask(keeping)
    response = await correct(keeping, answer["id"])
    assert_error(response, 503, "not_kept")
    assert response.headers["retry-after"]
    monkeypatch.setattr(os, "write", whole)
    assert (await correct(keeping, answer["id"])).status_code == 204
    assert accepted(kept) == 2
    assert len(rows(kept, "questions")) == 1


async def test_a_directory_that_cannot_be_made_fails_no_question(fake_adapters: Path, kept: Path) -> None:
    in_the_way = fake_adapters / "digits/aliases.json"
    async with serving(Settings(adapters=fake_adapters, capture=in_the_way), FakeEngine()) as running:
        await ask(running)
        await settled(running)
        assert 'vqa_captured_total{outcome="failed"} 1.0' in (await running.client.get("/metrics")).text


async def test_a_slow_disk_delays_no_answer_and_too_much_is_dropped(
    keeping: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.capture._BACKLOG", 2)
    held = asyncio.Event()

    async def hold(*_: Any) -> None:
        await held.wait()

    monkeypatch.setattr(keeping.app.state.service.vqa.capture, "_write", hold)
    for _ in range(3):
        await ask(keeping)
    assert 'vqa_captured_total{outcome="dropped"} 1.0' in (await keeping.client.get("/metrics")).text
    held.set()


@pytest.mark.parametrize(
    ("rules", "confidence", "drawn", "chosen"),
    [
        (Rules(), 0.9, 0.999, "chance"),
        (Rules(share=0.2), 0.9, 0.1, "chance"),
        (Rules(share=0.2), 0.1, 0.2, None),
        (Rules(share=0.2, below=0.5), 0.4, 0.3, "confidence"),
        (Rules(share=0.2, below=0.5), 0.4, 0.1, "chance"),
        (Rules(share=0.0, below=0.5), 0.5, 0.0, None),
    ],
)
def test_rules_choose_by_chance_first_and_then_by_confidence(
    rules: Rules, confidence: float, drawn: float, chosen: str | None
) -> None:
    assert replace(rules, draw=lambda: drawn).choose(confidence) == chosen


async def test_what_the_rules_pass_over_is_answered_and_not_kept(fake_adapters: Path, kept: Path) -> None:
    settings = Settings(adapters=fake_adapters, capture=kept, capture_share=0, capture_below=1e-9)
    async with serving(settings, FakeEngine()) as running:
        answer = await ask(running)
        assert_error(await correct(running, answer["id"]), 404, "question_not_found")
        assert 'vqa_captured_total{outcome="passed"} 1.0' in (await running.client.get("/metrics")).text
    assert not files(kept, "*.jsonl")


async def test_so_many_a_day_are_kept_after_a_restart_too_and_corrections_all_are(
    fake_adapters: Path, kept: Path
) -> None:
    settings = Settings(adapters=fake_adapters, capture=kept, capture_a_day=3)
    for asked, capped in ((2, 0), (2, 1)):
        async with serving(settings, FakeEngine()) as running:
            answers = [await ask(running) for _ in range(asked)]
            await settled(running)
            assert f'vqa_captured_total{{outcome="capped"}} {capped}.0' in (await running.client.get("/metrics")).text
            assert (await correct(running, answers[0]["id"])).status_code == 204
    assert len(rows(kept, "questions")) == 3
    assert {row["kept_by"] for row in rows(kept, "questions")} == {"chance"}
    assert len(rows(kept, "corrections")) == 2


def day(ago: int) -> str:
    return (datetime.now(UTC).date() - timedelta(ago)).isoformat()


def fill(kept: Path, ago: int, size: int) -> Path:
    folder = kept / day(ago)
    (folder / "images").mkdir(parents=True)
    (folder / "images/a.png").write_bytes(bytes(size))
    return folder


def test_days_that_are_too_old_go_and_what_is_not_ours_stays(kept: Path) -> None:
    old, fresh, other = fill(kept, 7, 1), fill(kept, 6, 1), kept / "notes"
    other.mkdir()
    assert Files(kept, days=7, size=10_000).save(RECORD)
    assert not old.exists()
    assert fresh.exists()
    assert other.exists()


def test_the_oldest_days_go_when_all_are_too_large_and_a_full_today_takes_no_more(kept: Path) -> None:
    folders = [fill(kept, ago, 400) for ago in (3, 2, 1)]
    assert Files(kept, days=30, size=1000).save(RECORD)
    assert [folder.exists() for folder in folders] == [False, True, True]
    (kept / day(0) / "images/large.png").write_bytes(bytes(2000))
    full = Files(kept, days=30, size=1000)
    assert not full.save(RECORD)
    assert [folder.exists() for folder in folders] == [False, False, False]


def test_the_room_that_rows_take_is_counted(kept: Path) -> None:
    saving = Files(kept, days=1, size=400)
    saved = [saving.save(RECORD) for _ in range(9)]
    assert saved == sorted(saved, reverse=True)
    assert 0 < sum(saved) < 9


def test_a_correction_lies_with_its_questions_day_and_image(kept: Path) -> None:
    saving = Files(kept, days=7, size=10**9)
    saving.save(replace(RECORD, day=day(2), picture=Image.new("RGB", (8, 8))))
    found = saving.find("vqa-1", "")
    assert found is not None
    assert saving.save(found.corrected("a dog", None))
    assert accepted(kept) == 2
    assert [folder.name for folder in kept.iterdir()] == [day(2)]
    assert saving.find("vqa-1", "another tenant") is None


texts = st.text(max_size=60).filter(is_row_text)
records = st.builds(
    Record,
    request=st.text(max_size=9),
    tenant=st.just(""),
    adapter=st.none() | st.sampled_from(["a", "b"]),
    version=st.none(),
    question=texts,
    answer=texts,
    confidence=st.floats(0, 1),
    said=st.none() | texts,
    comment=st.none() | st.text(max_size=9),
)


def test_a_correction_reads_the_day_that_its_id_says_and_no_other(kept: Path) -> None:
    """Every other day has a line that would fail to be read, as would the reading of them all."""
    saving = Files(kept, days=10_000, size=10**9)
    id_ = "vqa-20260501-abc"
    for number in range(400):
        day = kept / (date(2026, 5, 2) + timedelta(number)).isoformat()
        day.mkdir(parents=True)
        (day / "questions-a.jsonl").write_text(f'{{"request": "{id_}" broken\n')
    for answer in ("first", "last"):
        saving.save(replace(RECORD, request=id_, answer=answer, day="2026-05-01"))
    found = saving.find(id_, "")
    assert found is not None
    assert (found.answer, found.day) == ("last", "2026-05-01")
    assert saving.find("vqa-20260430-abc", "") is None
    assert saving.find("vqa-20269999-abc", "another") is None


def test_an_id_that_says_no_day_is_looked_for_among_the_newest_lines(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = Files(kept, days=10_000, size=10**9)
    for day in ("2026-05-01", "2026-05-02", "2026-05-03"):
        saving.save(replace(RECORD, request=f"vqa-{day}", day=day))
    assert saving.find("vqa-2026-05-01", "") is not None
    monkeypatch.setattr("service.capture.files._UNDATED", 2)
    assert saving.find("vqa-2026-05-02", "") is not None
    assert saving.find("vqa-2026-05-01", "") is None


async def test_an_answer_is_kept_under_the_day_that_its_id_says(keeping: Running, kept: Path) -> None:
    answer = await ask(keeping)
    await settled(keeping)
    (file,) = files(kept, "questions-*.jsonl")
    assert answer["id"].startswith(f"vqa-{file.parent.name.replace('-', '')}-")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(records, min_size=1, max_size=5))
def test_whatever_is_saved_is_read_back_by_the_trainer(
    tmp_path_factory: pytest.TempPathFactory, saved: list[Record]
) -> None:
    kept = tmp_path_factory.mktemp("kept")
    saving = Files(kept, days=1, size=10**9)
    assert False not in [saving.save(record) for record in saved]
    read = [(row.question, row.answer) for file in files(kept, "*.jsonl") for row in read_rows(file, "")]
    assert sorted(read) == sorted((record.question.strip(), record.answer.strip()) for record in saved)
