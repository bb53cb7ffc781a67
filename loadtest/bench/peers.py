"""The servers that are compared: started when first needed, paused while others are measured, stopped at the end."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.bench.cases import ADAPTERS, USED, Side
from loadtest.bench.in_process import READY, Measure, Measured
from loadtest.client import Window, exchange_all, keep_asking
from loadtest.faces import answers
from loadtest.servers import Server, cpu_s, ours, stock
from loadtest.store.manystore import fill
from service.adapters.manifest import FILE
from service.environment import cores
from service.types import Adapter

# As many adapter slots as adapters in use, on every side.
_ADAPTER_SLOTS = ("--max-loras", str(USED))
# A service that was paused would take its engine for silent, and restart it: so the engine is not asked for a sign of
# life for a day.
_OURS = (*_ADAPTER_SLOTS, "--engine-canary-s", "86400", "--log-level", "warning")
_STARTING_S = 600.0


@dataclass(frozen=True)
class Setting:
    """What all servers serve: the checkpoint `model` (transformers: `peer_model`), and copies of an adapter, `source`.

    Stores of these are made in `folder`. `gpu_share` is the share of a GPU that each server may take, since all are in
    memory at once; `dtype` is that of vLLM's activations, where it is not the checkpoint's.
    """

    model: str
    peer_model: str
    source: Adapter
    folder: Path
    gpu_share: float | None = None
    dtype: str | None = None


class Peers:
    """All servers by the names that cases give them."""

    def __init__(self, setting: Setting, port: int, tell: Callable[[str], None]) -> None:
        """Servers get the ports from `port` on; `tell` is called with a sentence for each start."""
        self._setting, self._port, self._tell = setting, port, tell
        self._stack, self._running = ExitStack(), dict[str, _Peer]()

    def __enter__(self) -> "Peers":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def stop_all_but(self, names: set[str]) -> None:
        """Stop servers that no case needs any more."""
        for name in set(self._running) - names:
            self._running.pop(name).close()

    @contextmanager
    def alone(self, name: str) -> Iterator["_Peer"]:
        """The server of that name, running until the block ends; all others are paused."""
        if name not in self._running:
            self._running[name] = self._start(name)
        peer = self._running[name]
        peer.server.resume()
        try:
            yield peer
        finally:
            peer.server.pause()

    def _start(self, name: str) -> "_Peer":
        began = time.monotonic()
        stack = self._stack.enter_context(ExitStack())
        used = {each.port for each in self._running.values()}
        port = next(port for port in itertools.count(self._port) if port not in used)
        server = stack.enter_context(self._command(name, port))
        if name == "in process":
            _await_line(server)
        self._tell(f"{name} is ready after {time.monotonic() - began:.0f} s")
        return _Peer(server, port, stack.close)

    def _command(self, name: str, port: int) -> Server:
        model, share, dtype = self._setting.model, self._setting.gpu_share, self._setting.dtype
        gpu = ("--gpu-memory-utilization", str(share)) if share else ()
        engine = {"dtype": dtype} if dtype else {}
        if name.startswith("manylens"):
            count = int(name.rpartition(" ")[2]) if " of " in name else ADAPTERS
            unproven = not (self._setting.source.path / FILE).exists()
            more = ("--adapters-unproven", str(unproven), "--engine-args", json.dumps(engine), *gpu)
            return ours(port, model, str(self._store(count)), *_OURS, *more)
        if name.startswith("stock"):
            plugins = "manylens" if name == "stock with our LoRA" else ""
            more = (*_ADAPTER_SLOTS, "--max-cpu-loras", str(ADAPTERS), *gpu)
            more += ("--dtype", dtype) if dtype else ()
            return stock(port, model, str(self._store(ADAPTERS)), self._setting.folder, *more, plugins=plugins)
        if name.startswith("handwritten"):
            command = [sys.executable, "-m", "loadtest.bench.handwritten", "--port", str(port)]
            command += ["--model", self._setting.peer_model, "--adapters", str(self._store(ADAPTERS))]
            command += ["--mixed"] if name == "handwritten, mixed" else []
            threads = {"OMP_NUM_THREADS": str(max(1, cores() - 1))}
            return Server(command, f"http://127.0.0.1:{port}/health", threads)
        options = {"max_loras": USED, "engine_args": engine} | ({"gpu_memory_utilization": share} if share else {})
        command = [sys.executable, "-m", "loadtest.bench.in_process", model, json.dumps(options)]
        return Server(command, None, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _store(self, count: int) -> Path:
        root = self._setting.folder / f"store-{count}"
        if not root.exists():
            fill(root, self._setting.source, count)
        return root


class _Peer:
    """A server that was started."""

    def __init__(self, server: Server, port: int, close: Callable[[], None]) -> None:
        self.server, self.port, self.close = server, port, close
        self._numbers = itertools.count(1)
        self._url = f"http://127.0.0.1:{port}"

    def ask(self, side: Side, numbers: range) -> list[str]:
        """The answers to units of these numbers, asked one after the other; loads adapters, and serves to compare.

        Raises:
            ValueError: a reply has no answer.
        """
        if side.make is None:
            return []
        replies = exchange_all(self._url, [content for number in numbers for content in side.make(number)])
        return [answer for reply in replies for answer in answers(reply.body)]

    def measure(self, side: Side, clients: int, warm_s: float, seconds: float) -> tuple[Window, float]:
        """What was answered in `seconds` after `warm_s` others, and the server's CPU seconds in that time."""
        pids = self.server.pids()
        if side.make is None:
            found = self._measure_in_process(Measure(clients, warm_s, seconds, next(self._numbers) * 100_000, pids))
            return Window(found.took, [200] * len(found.took), seconds), found.cpu_s
        make, spent = side.make, list[float]()
        window = keep_asking(
            self._url, clients, lambda: make(1000 + next(self._numbers)), warm_s, seconds,
            lambda: spent.append(cpu_s(pids)),
        )  # fmt: skip
        return window, spent[1] - spent[0]

    def _measure_in_process(self, wanted: Measure) -> Measured:
        pipe: Any = self.server.process.stdin
        pipe.write(json.dumps(asdict(wanted)).encode() + b"\n")
        pipe.flush()
        return Measured(**json.loads(_await_line(self.server)))


def _await_line(server: Server) -> str:
    """The next line of READY or JSON from the process with the engine; others, which libraries print, are skipped."""
    pipe: Any = server.process.stdout
    while True:
        line = pipe.readline().decode()
        if not line:
            server.process.wait(_STARTING_S)
            server.check()
        if line.startswith((READY, "{")):
            return str(line)
