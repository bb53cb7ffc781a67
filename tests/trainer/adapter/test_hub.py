"""`--adapter ORG/NAME` fetches an adapter's own files from the hub, once, and nothing else of the repository."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from service.errors import AdapterRefused
from trainer.adapter.foreign import hub

COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """A hub with one repository, speaking as much of the hub's HTTP as fetching takes; `asked` are the files sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if re.fullmatch(r"/api/models/org/lens(/revision/\w+)?", path):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.server.files.items()]
            self._send(json.dumps({"id": "org/lens", "sha": COMMIT, "siblings": siblings}).encode())
        elif re.fullmatch(r"/api/models/org/lens/tree/\w+", path):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.server.files.items()
            ]
            self._send(json.dumps(tree).encode())
        elif found := re.fullmatch(rf"/org/lens/resolve/{COMMIT}/(.+)", path):
            data = self.server.files[found[1]]
            if self.command == "GET":
                self.server.asked.append(found[1])
            self._send(data, etag=hashlib.sha256(data).hexdigest())
        else:
            self._send(b"{}", 404)

    def _send(self, data: bytes, status: int = 200, etag: str = "e") -> None:
        self.send_response(status)
        for name, value in (("content-length", str(len(data))), ("etag", f'"{etag}"'), ("x-repo-commit", COMMIT)):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """The test's output is enough."""


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        server.files = {
            "adapter_config.json": b"{}",
            "adapter_model.safetensors": b"weights",
            "optimizer.pt": b"x" * 1000,
            "checkpoint-1/adapter_config.json": b"{}",
        }
        yield server
        server.shutdown()


def test_an_id_is_fetched_once_and_only_what_an_adapter_is(served: Hub) -> None:
    folder = hub.fetch("org/lens", 100)
    assert {file.name for file in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert (folder / "adapter_model.safetensors").read_bytes() == b"weights"
    hub.fetch("org/lens", 100)
    assert sorted(served.asked) == ["adapter_config.json", "adapter_model.safetensors"]


def test_too_much_is_refused_before_it_is_fetched(served: Hub) -> None:
    served.files["adapter_model.safetensors"] = b"w" * 2000
    with pytest.raises(AdapterRefused, match="an adapter 0 at most"):
        hub.fetch("org/lens", 1000)
    assert served.asked == []


def test_a_repository_of_something_else_is_refused(served: Hub) -> None:
    served.files = {"model.safetensors": b"weights", "config.json": b"{}"}
    with pytest.raises(AdapterRefused, match=r"holds no adapter_config\.json"):
        hub.fetch("org/lens", 1000)


def test_one_that_is_not_there_is_refused(served: Hub) -> None:
    with pytest.raises(AdapterRefused, match="org/other is nothing that lies here"):
        hub.fetch("org/other", 1000)


def test_what_was_fetched_before_is_taken_while_the_hub_is_away(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.fetch("org/lens", 1000)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert hub.fetch("org/lens", 1000) == folder


def test_a_path_is_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert hub.is_id("org/lens")
    assert not hub.is_id("runs/absent")
    assert not hub.is_id("/org/lens")
    assert not hub.is_id("lens")
