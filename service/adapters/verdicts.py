"""Verdicts on versions (may serve, or refused and why), kept on disk so that the next start need not prove them again.

A version's content does not change, so a verdict on it stays true for the same base, prompt and engine build. Each
combination of these has a file of its own, with one verdict on a line.
"""

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from service.adapters.manifest import Facts

log = logging.getLogger(__name__)


class Verdict(BaseModel):
    """A version may serve, or must not for `reason`; `facts` are its manifest's, None where it has none."""

    model_config = ConfigDict(frozen=True)

    version: str
    reason: str | None = None
    message: str = ""
    facts: Facts | None = None


class Verdicts:
    """Verdicts by version. `remember` and `keep` block; where the disk fails they log it and raise nothing."""

    def __init__(self) -> None:
        self._by_version: dict[str, Verdict] = {}
        self._file: Path | None = None

    def remember(self, directory: Path, key: str) -> None:
        """Read the verdicts of earlier runs with the same `key` (Proof.key) in `directory`; keep new ones there."""
        self._file = directory / f"verdicts-{key[:16]}.jsonl"
        try:
            lines = self._file.read_text().splitlines() if self._file.exists() else []
        except (OSError, ValueError) as error:
            log.warning("verdicts in %s cannot be read, versions are proven anew: %s", self._file, error)
            return
        for line in filter(None, lines):
            try:
                verdict = Verdict.model_validate_json(line)
            except ValidationError:  # a line cut short by a kill
                continue
            self._by_version[verdict.version] = verdict

    def get(self, version: str) -> Verdict | None:
        """The verdict on a version, from memory; None: it was not judged."""
        return self._by_version.get(version)

    def keep(self, verdict: Verdict) -> None:
        """Keep a verdict in memory, and append it to the file."""
        self._by_version[verdict.version] = verdict
        if self._file is None:
            return
        line = "\n" + verdict.model_dump_json()  # a line that a kill cut short spoils no other
        try:
            with self._file.open("a") as file:
                file.write(line)
        except OSError as error:
            log.warning("a verdict cannot be kept, the next start proves that version again: %s", error)
