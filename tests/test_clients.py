"""Other people's clients ask the service on the real engine: `make test-clients`, which installs them.

Each is a script of tests/clients that fails by itself; it gets the service's URL and a picture of a blue disc.
"""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT, Running, png
from tests.test_http_edge import data_url

pytestmark = [pytest.mark.slow, pytest.mark.engine]
CLIENTS = ROOT / "build/clients"
SCRIPTS = sorted((ROOT / "tests/clients").glob("*.py")) + sorted((ROOT / "tests/clients").glob("*.mjs"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
async def test_a_client_asks_and_is_answered(real: Running, script: Path) -> None:
    assert (CLIENTS / "done").is_file(), "the clients are not installed: run make test-clients"
    command = [str(CLIENTS / "venv/bin/python"), str(script)]
    if script.suffix == ".mjs":  # Node looks for packages beside the script
        command = ["node", str(shutil.copy(str(script), CLIENTS))]
    told = {"SERVICE": str(real.client.base_url).rstrip("/"), "IMAGE": data_url(png("blue"))}
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONWARNINGS": "ignore", "NO_PROXY": "127.0.0.1"}
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | told | quiet, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), 180)
    assert process.returncode == 0, said.decode()[-4000:]
