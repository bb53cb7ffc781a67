"""What an endpoint has answered so far, appended as it comes: a command that was stopped asks for none of it again."""

import json
import threading
from pathlib import Path
from typing import Any

from trainer.errors import DataError, OptionError


class Journal:
    """A file of JSON lines: first the settings that shape answers, then a line for each picture that is done."""

    def __init__(self, file: Path, settings: dict[str, Any]) -> None:
        """Read what is there, and be ready to append.

        Raises:
            OptionError: it was begun with other settings.
            DataError: it cannot be read or written.
        """
        self.done: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("a+b")
        except OSError as error:
            raise DataError([f"{file}: cannot be written: {error}"]) from error
        try:
            whole = self._read(file, settings)
        except BaseException:
            self._file.close()
            raise
        # A line that a kill has cut off goes, so that the next one begins a line.
        self._file.truncate(whole)
        if not whole:
            self._append(settings)

    def _read(self, file: Path, settings: dict[str, Any]) -> int:
        """Take in whole lines; returns where they end."""
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
            except ValueError:
                raise DataError(
                    [f"{file}:{number + 1}: not JSON: remove the line, or the file to begin anew"]
                ) from None
            if number == 0:
                changed = [name for name in settings if entry.get(name) != settings[name]]
                if changed:
                    options = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
                    raise OptionError(
                        f"{options}: {file} was begun with another: give that, or another --output, or remove the file"
                    )
            else:
                self.done[entry["image"]] = entry
            end += len(line)
        return end

    def add(self, entry: dict[str, Any]) -> None:
        """Keep what came of a picture; threads may call it."""
        with self._lock:
            self.done[entry["image"]] = entry
            self._append(entry)

    def _append(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file, which stays on the disk for the next run."""
        self._file.close()
