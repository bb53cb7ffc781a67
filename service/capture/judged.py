"""How many answers of each version were judged right and wrong, counted from the corrections in a directory.

Blocks; knows nothing of requests. Replicas that share a directory have the same counts, and the directory's id shows
that they share it. Files are read on from where the last reading ended; days that were removed no longer count.
"""

import json
import logging
import os
import threading
import uuid
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.capture.files import days_in

# Bytes of corrections that are read at a start, the newest days first: some 80,000 of them, and 25 MB of memory. The
# newest day is read whatever its size.
MOST_BYTES = 32_000_000
_ID = "directory.id"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A caller's judgement of one answer: the version that gave it, when (`at`), and whether it was right.

    `told` is when the judgement came, in ISO 8601.
    """

    version: str
    at: datetime
    right: bool
    told: str


@dataclass(slots=True)
class Feedback:
    """How many of a version's answers were judged right and wrong."""

    right: int = 0
    wrong: int = 0


def same(one: str, other: str) -> bool:
    """Whether two answers are equal but for case and white space."""
    return one.casefold().split() == other.casefold().split()


class Judged:
    """Callers' judgements by version, read from a directory of kept questions; `most` bytes are read at first."""

    def __init__(self, directory: Path, most: int = MOST_BYTES) -> None:
        self._directory, self._most = directory, most
        self._read: dict[Path, int] = {}
        # By day, adapter and request: the last judgement of an answer is the one that counts.
        self._days: dict[str, dict[str, dict[str, Judgement]]] = {}
        self._begun = False
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read what was appended since the last time, and forget the days that were removed.

        Raises:
            OSError: the directory cannot be read.
        """
        with self._lock:
            days = sorted(days_in(self._directory))
            for day in self._days.keys() - set(days):
                del self._days[day]
            self._read = {file: at for file, at in self._read.items() if file.parent.name in days}
            for day in days if self._begun else self._newest(days):
                kept = self._days.setdefault(day, defaultdict(dict))
                for file in sorted((self._directory / day).glob("corrections-*.jsonl")):
                    self._follow(file, kept)
            if not self._begun:
                # Older days are as if they had been read.
                self._read |= {file: file.stat().st_size for file in self._files(days) if file not in self._read}
                self._begun = True

    def of(self, adapter: str, since: datetime | None = None) -> dict[str, Feedback]:
        """Feedback by version on what an adapter answered by its name or an alias, from `since` on.

        Where an answer was judged twice, the later judgement counts.
        """
        found = defaultdict[str, Feedback](Feedback)
        with self._lock:
            for day in self._days.values():
                for judgement in day.get(adapter, {}).values():
                    if since is None or judgement.at >= since:
                        feedback = found[judgement.version]
                        feedback.right += judgement.right
                        feedback.wrong += not judgement.right
        return dict(found)

    def id(self) -> str | None:
        """The directory's id, made if it has none, the same for all replicas that share it; None: no directory yet.

        Raises:
            OSError: it cannot be read or written.
        """
        if not self._directory.is_dir():
            return None
        with suppress(FileExistsError):
            made = os.open(self._directory / _ID, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(made, "w") as file:
                file.write(uuid.uuid4().hex)
        return (self._directory / _ID).read_text() or None

    def _files(self, days: list[str]) -> list[Path]:
        return [file for day in days for file in (self._directory / day).glob("corrections-*.jsonl")]

    def _newest(self, days: list[str]) -> list[str]:
        """The newest of these days whose corrections come to at most `most` bytes, one at least, in order."""
        found, left = list[str](), self._most
        for day in reversed(days):
            left -= sum(file.stat().st_size for file in self._files([day]))
            if found and left < 0:
                break
            found.insert(0, day)
        return found

    def _follow(self, file: Path, kept: dict[str, dict[str, Judgement]]) -> None:
        """Read on in one file up to its last complete line; a file that became shorter is read from its beginning."""
        at = self._read.get(file, 0)
        size = file.stat().st_size
        if size == at:
            return
        with file.open("rb") as lines:
            lines.seek(at if at <= size else 0)
            text = lines.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read[file] = lines.tell() - len(text) + len(whole)
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                if (judgement := _judgement(row, file.parent.name)) is None:
                    continue
                before = kept[row["adapter"]].get(row["request"])
                if before is None or before.told <= judgement.told:  # replicas' files are read in no order
                    kept[row["adapter"]][row["request"]] = judgement
            except (ValueError, KeyError, TypeError, AttributeError):  # written by an editor, or by an operator's hook
                log.warning("%s holds a line that is no correction: it is left out of versions' figures", file)


def _judgement(row: dict[str, Any], day: str) -> Judgement | None:
    """The judgement in a correction's row; None where versions are not compared by it.

    They are not by answers of the base, of a version asked by its digest, and by those kept for low confidence alone.
    Rows written before 2026-11-29 do not tell when the answer was given: the beginning of its day is taken.
    """
    if row.get("version") is None or row.get("release") == "pinned" or row.get("kept_by") == "confidence":
        return None
    at = datetime.fromisoformat(row.get("answered") or day)
    when = at if at.tzinfo else at.replace(tzinfo=UTC)
    return Judgement(row["version"], when, same(row["answer"], row["said"]), row["at"])
