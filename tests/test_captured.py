"""What was kept is read back by who asked: least confident first, right answers as a file that the trainer accepts."""

import io
import json
import zipfile
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.capture import review
from service.capture.files import Files, Record
from service.engine.fake import FakeEngine
from service.settings import Settings
from tests.conftest import Running, serving
from tests.test_auth import bearer, write
from tests.test_capture import ask, correct, files, settled
from tests.test_http_edge import assert_error
from trainer.__main__ import main

RECORD = Record("vqa-1", "", "digits", "0" * 64, "what?", "a cat", 0.5, picture=Image.new("RGB", (8, 8)))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
async def keeping(fake_adapters: Path, kept: Path) -> AsyncGenerator[Running, None]:
    async with serving(Settings(adapters=fake_adapters, capture=kept), FakeEngine()) as running:
        yield running


def day(ago: int) -> str:
    return (datetime.now(UTC).date() - timedelta(ago)).isoformat()


async def listed(running: Running, **query: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await running.client.get("/v1/captured", params=query)).raise_for_status().json()
    return found


async def rows_of(running: Running, target: Path, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """The rows of the file to be downloaded, which is unpacked to `target`."""
    response = (await running.client.get("/v1/captured/rows.zip", headers=headers or {})).raise_for_status()
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as packed:
        packed.extractall(target)
    return [json.loads(line) for line in (target / "rows.jsonl").read_text().splitlines()]


def fill(kept: Path, confidences: dict[str, float], **fields: Any) -> Files:
    saving = Files(kept, days=30, size=10**9)
    for request, confidence in confidences.items():
        saving.save(replace(RECORD, request=request, confidence=confidence, **fields))
    return saving


async def test_the_least_confident_answers_come_first_with_their_pictures(keeping: Running, kept: Path) -> None:
    fill(kept, {"sure": 0.9, "guess": 0.1}, day=day(2))
    fill(kept, {"unsure": 0.4})
    found = await listed(keeping, limit=2)
    assert [each["id"] for each in found["answers"]] == ["guess", "unsure"]
    assert (found["waiting"], found["right"], found["whole"]) == (3, {}, True)
    first = found["answers"][0]
    told = {"question": "what?", "answer": "a cat", "confidence": 0.1, "adapter": "digits", "day": day(2)}
    assert first.items() >= told.items()
    assert first["image"].startswith("data:image/png;base64,")
    assert [each["id"] for each in (await listed(keeping, skip=2))["answers"]] == ["sure"]


async def test_what_was_judged_is_not_listed_and_counts_as_right(keeping: Running) -> None:
    first, second = [await ask(keeping, adapter="digits") for _ in range(2)]
    third = await ask(keeping, "and the base?")
    assert (await listed(keeping))["waiting"] == 3
    for _ in range(2):
        (await correct(keeping, first["id"], "a dog")).raise_for_status()
    (await correct(keeping, third["id"], third["answer"])).raise_for_status()
    found = await listed(keeping)
    assert [each["id"] for each in found["answers"]] == [second["id"]]
    assert found["right"] == {"": 1, "digits": 1}
    assert (await listed(keeping, adapter="shapes"))["answers"] == []


async def test_right_answers_are_downloaded_as_the_trainer_reads_them(keeping: Running, tmp_path: Path) -> None:
    answers = [await ask(keeping, f"what is number {number}?", adapter="digits") for number in range(3)]
    for answer in answers[:2]:
        (await correct(keeping, answer["id"], "a cow")).raise_for_status()
    (await correct(keeping, answers[0]["id"], "a dog")).raise_for_status()
    rows = await rows_of(keeping, tmp_path / "rows")
    assert {row["question"]: row["answer"] for row in rows} == {
        "what is number 0?": "a dog", "what is number 1?": "a cow"
    }  # fmt: skip
    data, images = tmp_path / "rows/rows.jsonl", tmp_path / "rows/images"
    assert main(["data", "check", "--data", str(data), "--images", str(images)]) == 0
    assert not list((tmp_path / "kept").glob("*.zip"))


async def test_with_nothing_kept_there_is_nothing_to_judge_and_an_empty_file(keeping: Running, tmp_path: Path) -> None:
    assert await listed(keeping) == {"answers": [], "waiting": 0, "right": {}, "whole": True}
    assert await rows_of(keeping, tmp_path / "rows") == []


async def test_a_tenant_sees_its_own_alone(fake_adapters: Path, kept: Path, tmp_path: Path) -> None:
    keys = write(tmp_path / "keys.json", {"one": {}, "two": {"admin": True}})
    async with serving(Settings(adapters=fake_adapters, capture=kept, keys=keys), FakeEngine()) as running:
        answer = await ask(running, headers=bearer("one"))
        (await correct(running, answer["id"], headers=bearer("one"))).raise_for_status()
        await ask(running, headers=bearer("one"))
        await settled(running)
        for path in ("/v1/captured", "/v1/captured/rows.zip"):
            assert_error(await running.client.get(path), 401, "unauthorized")
        mine = (await running.client.get("/v1/captured", headers=bearer("one"))).json()
        theirs = (await running.client.get("/v1/captured", headers=bearer("two"))).json()
        assert (mine["waiting"], mine["right"]) == (1, {"": 1})
        assert (theirs["waiting"], theirs["right"]) == (0, {})
        assert len(await rows_of(running, tmp_path / "one", bearer("one"))) == 1
        assert await rows_of(running, tmp_path / "two", bearer("two")) == []


async def test_without_keys_only_who_sits_at_the_machine_reads_what_was_asked(keeping: Running) -> None:
    for path in ("/v1/captured", "/v1/captured/rows.zip"):
        relayed = await keeping.client.get(path, headers={"x-forwarded-for": "203.0.113.9"})
        assert_error(relayed, 403, "forbidden")


async def test_where_nothing_is_kept_it_is_said(fake: Running) -> None:
    for path in ("/v1/captured", "/v1/captured/rows.zip"):
        assert "keeps no questions" in assert_error(await fake.client.get(path), 404, "question_not_found")


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 21}, {"skip": -1}, {"skip": 10_001}])
async def test_what_is_asked_for_is_bounded(keeping: Running, query: dict[str, int]) -> None:
    assert_error(await keeping.client.get("/v1/captured", params=query), 422, "invalid_request")


async def test_no_more_lines_are_read_than_may_be_the_newest_first(
    keeping: Running, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review, "LINES", 3)
    fill(kept, {f"old-{number}": 0.1 for number in range(5)}, day=day(3))
    fill(kept, {"new-0": 0.5, "new-1": 0.6})
    found = await listed(keeping)
    assert {each["id"] for each in found["answers"]} == {"new-0", "new-1", "old-0"}
    assert not found["whole"]


async def test_a_file_has_so_many_rows_at_most(
    keeping: Running, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review, "ARCHIVE_ROWS", 2)
    saving = fill(kept, {f"vqa-{number}": 0.1 for number in range(4)})
    for number in range(4):
        found = saving.find(f"vqa-{number}", "")
        assert found is not None
        saving.save(found.corrected("a dog", None))
    assert len(await rows_of(keeping, tmp_path / "rows")) == 2


async def test_a_directory_that_cannot_be_read_is_told_as_such(fake_adapters: Path) -> None:
    in_the_way = fake_adapters / "digits/aliases.json"
    async with serving(Settings(adapters=fake_adapters, capture=in_the_way), FakeEngine()) as running:
        assert_error(await running.client.get("/v1/captured/rows.zip"), 503, "not_kept")


async def test_a_picture_is_read_from_the_day_s_own_folder_alone(keeping: Running, kept: Path) -> None:
    fill(kept, {"vqa-1": 0.5})
    (file,) = files(kept, "questions-*.jsonl")
    row = json.loads(file.read_text()) | {"image": "../../secret.png"}
    file.write_text(json.dumps(row) + "\n")
    (answer,) = (await listed(keeping))["answers"]
    assert answer["image"] is None


@pytest.mark.parametrize(
    "broken", ['{"tenant": "", "request": "vqa-2"', '{"tenant": ""}', '["tenant", {"tenant": ""}]']
)
async def test_a_line_that_is_no_row_is_left_out(keeping: Running, kept: Path, tmp_path: Path, broken: str) -> None:
    fill(kept, {"vqa-1": 0.5, "vqa-3": 0.6})
    found = Files(kept, days=30, size=10**9).find("vqa-3", "")
    assert found is not None
    Files(kept, days=30, size=10**9).save(found.corrected("a dog", None))
    for kind in ("questions", "corrections"):
        (file,) = files(kept, f"{kind}-*.jsonl")
        file.write_text(f"{broken}\n{file.read_text()}")
    assert [each["id"] for each in (await listed(keeping))["answers"]] == ["vqa-1"]
    assert [row["answer"] for row in await rows_of(keeping, tmp_path / "rows")] == ["a dog"]
