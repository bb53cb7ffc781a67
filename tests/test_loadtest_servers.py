"""loadtest.servers: a server that is measured is started, and nothing of it is left."""

import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

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


def test_pipes_to_a_server_are_closed_with_it() -> None:
    with Server([sys.executable, "-c", "input()"], None, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        pass
    assert server.process.stdin is not None
    assert server.process.stdout is not None
    assert server.process.stdin.closed
    assert server.process.stdout.closed


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_another_server_on_the_port_is_named_and_not_measured() -> None:
    with HTTPServer(("127.0.0.1", 0), _Answers) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_port}/readyz"
        with (
            pytest.raises(SystemExit, match=f"{url} is answered by another server: stop that, or take another port"),
            Server([sys.executable, "-c", _LEAVES_A_CHILD], url),
        ):
            pass
        other.shutdown()
