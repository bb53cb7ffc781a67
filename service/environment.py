"""The variables that vLLM and the libraries under it read when they are loaded: what we set where the user does not.

Imports nothing heavy: it runs before torch is loaded, and libgomp reads OMP_NUM_THREADS only once.
"""

import os
import platform
import signal
import sys
from collections.abc import MutableMapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

_EVERYWHERE = {
    "VLLM_NO_USAGE_STATS": "1",
    # Of the plugins that an environment may hold, ours alone are loaded.
    "VLLM_PLUGINS": "manylens,manylens_avx2",
    # Of processes that vLLM starts in its own way; those that are forked log as we do.
    "VLLM_LOGGING_LEVEL": "ERROR",
}
_ON_CPU = {
    # W4A8 would round activations to 8 bits: not what W4A16 promises.
    "VLLM_CPU_INT4_W4A8": "0",
    # vLLM would pin each service's worker to the first core: two services on one machine shared it.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # With LoRA vLLM compiles but three small functions there, with a C++ compiler that may be missing, in 4 to 17 s;
    # answers and speed are the same without.
    "TORCHDYNAMO_DISABLE": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}


def prepare() -> None:
    """Make this process one that may import torch: variables set, and started anew where a library must come first."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # nothing has begun that would have to end in order
    set_defaults()
    if (libraries := _preloaded()) != os.environ.get("LD_PRELOAD", ""):
        os.environ["LD_PRELOAD"] = libraries
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _preloaded() -> str:
    """LD_PRELOAD as vLLM wants it on a CPU: torch's OpenMP and, where there is one, its tcmalloc."""
    found = os.environ.get("LD_PRELOAD", "")
    if not (on_cpu() and sys.platform == "linux"):
        return found
    for package, pattern, others in (
        ("torch", "lib/libgomp*.so*", ("libomp", "libgomp", "libiomp")),
        ("vllm", "libs/libtcmalloc*.so*", ("libtcmalloc",)),
    ):
        spec = find_spec(package)
        if spec is None or spec.origin is None or any(other in found for other in others):
            continue
        folder = Path(spec.origin).parent
        libraries = sorted([*folder.glob(pattern), *(folder.parent / f"{package}.libs").glob(Path(pattern).name)])
        found = ":".join(filter(None, (found, *map(str, libraries[:1]))))
    return found


def set_defaults(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what is missing from `environment`; what is there stays."""
    wanted = dict(_EVERYWHERE)
    if on_cpu():
        # One core is left to the event loop and the decoding of images.
        wanted |= _ON_CPU | {"OMP_NUM_THREADS": str(max(1, cores() - 1))}
    for name, value in wanted.items():
        environment.setdefault(name, value)


def on_cpu() -> bool:
    """Whether the vLLM that is installed is a CPU build."""
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:  # the CPU build has a name of its own
        return True


def without_avx512(root: Path = Path("/")) -> bool:
    """Whether vLLM runs on an x86-64 CPU without AVX-512; service/engine/without_avx512.py says what follows."""
    try:
        flags = (root / "proc/cpuinfo").read_text()
    except OSError:
        return False
    return platform.machine() == "x86_64" and on_cpu() and "avx512f" not in flags.split()


def cores(root: Path = Path("/")) -> int:
    """The cores that this process may use: those it may run on, or a container's limit if that is less (cgroup v2)."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        return mine if quota == "max" else max(1, min(mine, int(quota) // int(period)))
    except (OSError, ValueError):
        return mine
