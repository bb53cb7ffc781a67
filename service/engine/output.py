"""Logs what vLLM's processes write: their log records as ours, all other lines at level debug. Knows nothing of vLLM.

Their stdout and stderr are one pipe, which a thread here reads line by line: whatever they print, each line of ours
stays a line of the format that was asked for. A record crosses as JSON behind a mark.
"""

import json
import logging
import os
import re
import signal
import sys
import threading
from collections import deque

_MARK = "\x1e"
_ERROR = re.compile(r"^(?:[\w.]*\.)?([A-Z]\w*(?:Error|Exception|Interrupt)): (.+)", re.MULTILINE)
# What vLLM's core says of a worker that ended by itself.
_ENDED = re.compile(r"died unexpectedly \(exit code: (-?\d+)\)")

log = logging.getLogger("vllm.output")


def how_it_ended(status: int) -> str:
    """How a process ended, by its exit status, where a negative one is the signal that killed it."""
    if status >= 0:
        return f"with status {status}"
    hint = " (the kernel sends it where memory has run out)" if status == -signal.SIGKILL else ""
    return f"by signal {-status}, {signal.strsignal(-status)}{hint}"


class Output:
    """One pipe from the engine's processes: they write into it after `redirect`, we read after `follow`."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self._faults: deque[str] = deque(maxlen=20)

    def redirect(self) -> None:
        """Let all that this process, and what it starts, writes go into the pipe."""
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor in (1, 2):
            os.dup2(self._writer, descriptor)

    def become_the_writer(self) -> None:
        """In a process that writes: log records go through the pipe too."""
        os.close(self._reader)
        handler = logging.StreamHandler()
        handler.setFormatter(_Marked())
        logging.basicConfig(handlers=[handler], level=logging.root.level, force=True)
        vllm = logging.getLogger("vllm")
        vllm.setLevel(min(vllm.level, logging.ERROR))

    def follow(self) -> None:
        """Begin to tell what is written, in a thread that ends with the last process that writes."""
        os.close(self._writer)
        threading.Thread(target=self._read, name="engine output", daemon=True).start()

    def cause(self) -> str | None:
        """The first error that was written since this was asked before, as `ValueError: its words`; None without.

        A worker that ended by itself counts as one.
        """
        found = next(iter(self._faults), None)
        self._faults.clear()
        return found

    def _read(self) -> None:
        with os.fdopen(self._reader, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.strip():
                    self._tell(line.rstrip("\n"))

    def _tell(self, line: str) -> None:
        if not line.startswith(_MARK):
            log.debug("%s", line)
            return
        told = json.loads(line[len(_MARK) :])
        if found := _ERROR.findall(told["traceback"]):
            kind, words = found[-1]
            self._faults.append(f"{kind}: {words}")
        elif ended := _ENDED.search(told["message"]):
            self._faults.append(f"a process of vLLM's ended {how_it_ended(int(ended[1]))}")
        record = logging.makeLogRecord(
            {"name": told["name"], "levelno": told["level"], "levelname": logging.getLevelName(told["level"])}
            | {"msg": told["message"]}
        )
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
        for part in filter(None, told["traceback"].splitlines()):
            log.debug("%s", part)


class _Marked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        traceback = self.formatException(record.exc_info) if record.exc_info else ""
        told = {"name": record.name, "level": record.levelno, "message": record.getMessage(), "traceback": traceback}
        return _MARK + json.dumps(told)
