"""An S3 API on this machine (moto's server, extra `s3`), filled directly in its backend, with its requests counted."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from loadtest.store.manystore import versions_of
from service.types import Adapter

BUCKET = "lens"


class _Counting(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@dataclass
class Objects:
    """The server; `lines` are its log lines, one for each request."""

    url: str
    lines: list[str]
    backend: Any
    keys: list[str] = field(default_factory=list)

    def put(self, key: str, content: bytes) -> None:
        """Make an object without a request that counts."""
        self.backend.put_object(BUCKET, key, content)
        self.keys.append(key)

    def fill(self, source: Adapter, count: int) -> None:
        """Make a store of `count` adapters under `adapters/`."""
        files = {file.name: file.read_bytes() for file in source.path.iterdir()}
        for name, version, own in versions_of(source, count):
            for file, content in (files | own).items():
                self.put(f"adapters/{name}/versions/{version}/{file}", content)
            self.put(f"adapters/{name}/aliases.json", json.dumps({"stable": version}).encode())

    def counted(self) -> dict[str, int]:
        """Requests since the last call, by method."""
        lines, self.lines[:] = [*self.lines], []
        methods = [line.split('"')[1].split()[0].removeprefix("\x1b[1m") for line in lines if '"' in line]
        return {method: methods.count(method) for method in sorted({*methods})}


@contextmanager
def objects() -> Iterator[Objects]:
    """A server with one empty bucket, BUCKET, until the block ends; fsspec finds it by environment variables."""
    from moto.s3.models import s3_backends
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    log, counting = logging.getLogger("werkzeug"), _Counting()
    log.setLevel(logging.INFO)
    log.addHandler(counting)
    log.propagate = False
    server.start()
    host, port = server.get_host_and_port()
    names = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    names["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    backend = s3_backends["123456789012"]["aws"]
    backend.create_bucket(BUCKET, "us-east-1")
    try:
        yield Objects(names["AWS_ENDPOINT_URL"], counting.lines, backend)
    finally:
        server.stop()
        backend.reset()  # moto keeps its objects after the server has stopped
        log.removeHandler(counting)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
