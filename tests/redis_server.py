"""A real Redis for tests, where one is installed; tests/conftest.py has its fixtures."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.balancers import free_port

needs_redis = pytest.mark.skipif(not shutil.which("redis-server"), reason="needs redis-server")


class Redis:
    """A server that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--save", "", "--daemonize", "no"]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        while b"eady to accept connections" not in self.process.stdout.readline():
            assert self.process.poll() is None

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()
