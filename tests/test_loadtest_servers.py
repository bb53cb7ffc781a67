"""loadtest.servers: a server that is measured is started, and nothing of it is left."""

import sys
import time

from loadtest.servers import Server

_LEAVES_A_CHILD = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"


def test_what_a_server_started_is_gone_with_it() -> None:
    server = Server([sys.executable, "-c", _LEAVES_A_CHILD], None)
    with server:
        until = time.monotonic() + 20
        while len(server.pids()) < 2:
            assert time.monotonic() < until
            time.sleep(0.02)
    assert server.pids() == []
