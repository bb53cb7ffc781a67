"""Right and wrong by version: the same after a restart, whole lines only, and as old as its directory."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.capture.judged import Judged


def row(request: str, **fields: Any) -> str:
    plain = {"adapter": "digits", "version": "new", "release": "canary", "answer": "7", "said": "7"}
    times = {"answered": "2026-11-29T10:00:00+00:00", "at": "2026-11-29T10:30:00+00:00"}
    return json.dumps(plain | {"request": request} | times | fields) + "\n"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A directory of one day and one replica."""
    (tmp_path / "kept/2026-11-29").mkdir(parents=True)
    return tmp_path / "kept"


def append(kept: Path, *rows: str, host: str = "a", day: str = "2026-11-29") -> Path:
    file = kept / day / f"corrections-{host}.jsonl"
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as lines:
        lines.writelines(rows)
    return file


def look(judged: Judged, since: datetime | None = None) -> dict[str, tuple[int, int]]:
    judged.refresh()
    return {version: (told.right, told.wrong) for version, told in judged.of("digits", since).items()}


def test_answers_are_right_or_wrong_by_version_and_the_last_word_counts(kept: Path) -> None:
    append(kept, row("1"), row("2", said="1"), row("3", version="old", release="stable", answer=" Seven", said="seven"))
    append(kept, row("4", adapter="shapes"), row("2", said="1"), host="b")
    judged = Judged(kept)
    assert look(judged) == {"new": (1, 1), "old": (1, 0)}
    append(kept, row("2", answer="1", said="1", at="2026-11-29T10:31:00+00:00"))
    assert look(judged) == look(Judged(kept)) == {"new": (2, 0), "old": (1, 0)}


def test_what_was_asked_by_digest_or_kept_for_its_low_confidence_does_not_count(kept: Path) -> None:
    append(kept, row("1", release="pinned"), row("2", adapter=None, version=None, release=None))
    append(kept, row("3", kept_by="confidence"))
    assert look(Judged(kept)) == {}


def test_answers_given_before_a_time_do_not_count(kept: Path) -> None:
    append(kept, row("1"), row("2", answered="2026-11-29T12:00:00+00:00"), row("3", answered=None))
    assert look(Judged(kept), datetime(2026, 11, 29, 11, tzinfo=UTC)) == {"new": (1, 0)}
    assert look(Judged(kept)) == {"new": (3, 0)}


def test_half_a_line_is_read_once_it_is_whole_and_nonsense_is_left_out(kept: Path) -> None:
    judged, whole = Judged(kept), row("1")
    append(kept, whole[:20])
    assert look(judged) == {}
    file = append(kept, whole[20:], "nonsense\n", "[]\n", "{}\n", row("2"))
    assert look(judged) == {"new": (2, 0)}
    file.write_text(row("9"))  # shorter than before: read from its beginning
    assert look(judged) == {"new": (3, 0)}


def test_days_that_are_gone_no_longer_count(kept: Path) -> None:
    judged = Judged(kept)
    append(kept, row("1"), day="2026-11-28")
    append(kept, row("2"))
    assert look(judged) == {"new": (2, 0)}
    shutil.rmtree(kept / "2026-11-28")
    assert look(judged) == {"new": (1, 0)}


def test_a_start_reads_the_newest_days_within_its_bound_and_goes_on_from_there(kept: Path) -> None:
    for day in ("2026-11-27", "2026-11-28", "2026-11-29"):
        append(kept, *(row(f"{day}-{number}") for number in range(10)), day=day)
    judged = Judged(kept, most=2 * 10 * len(row("2026-11-27-0")))
    assert look(judged) == {"new": (20, 0)}
    append(kept, row("late"), day="2026-11-27")
    assert look(judged) == {"new": (21, 0)}


def test_a_directory_keeps_its_id_and_one_that_is_not_there_has_none(kept: Path, tmp_path: Path) -> None:
    assert Judged(tmp_path / "nowhere").id() is None
    assert Judged(tmp_path / "nowhere").of("digits") == {}
    assert Judged(kept).id() == Judged(kept).id() is not None
