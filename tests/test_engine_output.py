"""What vLLM's processes write: records and prints cross one pipe, in our format, and the cause of a failure is kept."""

import asyncio
import json
import logging
import os
import sys

import pytest

from service.engine.output import Output, how_it_ended
from tests.conftest import until

CHILD = """
import logging, sys
from service import logs
from service.engine.output import _Marked
handler = logging.StreamHandler(); handler.setFormatter(_Marked())
logging.basicConfig(handlers=[handler], level="INFO", force=True)
print("[W] said by C++", flush=True)
try:
    try:
        raise ValueError("no such device")
    except ValueError as error:
        raise RuntimeError("Engine core initialization failed") from error
except RuntimeError:
    logging.getLogger("vllm.v1").exception("WorkerProc failed to start.")
logging.getLogger("service.engine.lora_on_cpu").warning("two\\nlines")
"""


async def test_records_keep_their_level_prints_are_for_who_debugs_and_the_cause_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="vllm.output")  # vLLM, where it was imported, sets a level of its own above
    output = Output()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, stdout=output._writer, stderr=output._writer
    )
    assert await child.wait() == 0
    output.follow()
    await until(lambda: any(record.getMessage() == "two\nlines" for record in caplog.records))
    told = {record.getMessage(): record for record in caplog.records}
    assert told["[W] said by C++"].levelno == logging.DEBUG
    assert told["WorkerProc failed to start."].levelno == logging.ERROR
    assert told["two\nlines"].name == "service.engine.lora_on_cpu"
    assert told["two\nlines"].levelno == logging.WARNING
    assert output.cause() == "RuntimeError: Engine core initialization failed"
    assert output.cause() is None


def test_a_worker_that_ended_by_itself_is_a_cause() -> None:
    output = Output()
    said = "Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down executor."
    output._tell("\x1e" + json.dumps({"name": "vllm", "level": 40, "message": said, "traceback": ""}))
    assert output.cause() == (
        "a process of vLLM's ended by signal 9, Killed (the kernel sends it where memory has run out)"
    )
    assert how_it_ended(3) == "with status 3"
    assert how_it_ended(-11) == "by signal 11, Segmentation fault"


def test_the_writer_s_end_is_closed_here_so_that_the_thread_ends_with_the_last_process() -> None:
    output = Output()
    output.follow()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(output._writer)
