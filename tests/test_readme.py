"""The README tells the truth: its bash blocks are run as they stand, against the running service."""

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Running

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [block for block in BLOCKS if block != "make serve\n"]


async def run(block: str, base_url: str) -> str:
    script = block.replace("http://127.0.0.1:8000", base_url)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": "/tmp"}
    process = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", script, cwd=ROOT, env=environment, stdout=-1, stderr=-1
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()


def test_the_two_commands_are_in_the_makefile() -> None:
    assert "make serve\n" in BLOCKS
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"^make ([a-z]+)", README, re.MULTILINE):
        assert target in targets


@pytest.mark.engine
async def test_every_block_runs_and_answers_right(real: Running) -> None:
    form, adapters, as_json = [await run(block, str(real.client.base_url)) for block in COMMANDS]
    assert json.loads(form)["answer"] == "blue"
    assert json.loads(form)["adapter"]["name"] == "shapes"
    assert json.loads(adapters)["base"]["precision"] == "int4"
    assert as_json.strip() == "7"


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 160


def test_every_place_named_is_there() -> None:
    for name in re.findall(r"(?<![\w/.])(?:docs|models|service|trainer|loadtest|tests|deploy)/[\w./-]*", README):
        assert (ROOT / name).exists(), name
