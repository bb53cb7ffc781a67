"""One import for all of vLLM's processes: they are forked from a process that has imported everything.

Importing torch and vLLM takes some 10 s of CPU, and stock vLLM does it three times, one after the other: here, in the
engine's core, in its worker. `begin` imports once, before any thread runs, and forks a process that only serves as
multiprocessing's fork server: the core is forked from that, and forks its workers where it has some. A core that died
is back in seconds.

vLLM knows "spawn" and "fork" alone, so one function of it is replaced: `vllm.v1.engine.utils.get_mp_context`, from
which it makes the core's process. tests/test_engine_forking.py says when an upgrade changes that.

The fork server and all that comes of it are one process group, which the kernel has killed when this process dies,
however it does. Each of these also dies with the process that forked it: when the fork server is killed, so is the
engine, and the next engine imports everything itself. Where forking is not safe, vLLM starts its processes in its own
way.
"""

import ctypes
import gc
import importlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import warnings
from multiprocessing import connection, forkserver, resource_tracker
from typing import Any

from service import environment
from service.engine.output import Output

log = logging.getLogger(__name__)

_MODULES = (
    "service.engine.lora_on_cpu",
    "service.engine.without_avx512",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.executor.multiproc_executor",
    "vllm.model_executor.models.llava",
    "vllm.lora.worker_manager",
    "vllm.lora.model_manager",
)
_ON_CPU, _ON_GPU = ("vllm.v1.worker.cpu_worker",), ("vllm.v1.worker.gpu_worker",)
_PR_SET_PDEATHSIG = 1

# The process that serves forks, which leads the group of all engine processes; None where vLLM starts them itself.
_server: int | None = None
_output: Output | None = None


def begin() -> bool:
    """Import vLLM and fork the server, from which engines are started from now on; whether that could be done.

    To be called once, before this process has started a thread or touched a GPU.
    """
    global _output, _server
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")  # its lines go where ours go
    for name in (*_MODULES, *(_ON_CPU if environment.on_cpu() else _ON_GPU)):
        importlib.import_module(name)
    if (reason := _unsafe()) is not None:
        log.info("vLLM's processes import everything themselves: %s", reason)
        os.environ["VLLM_CONFIGURE_LOGGING"] = "1"
        return False
    _inspect_llava()
    gc.collect()
    gc.freeze()  # pages that no collection touches stay shared
    _output = Output()
    _server = _fork_server(_output)
    _output.follow()
    _let_vllm_use_it()
    return True


def _inspect_llava() -> None:
    """Let vLLM read what LLaVA's class can do from the class, which is imported here anyway.

    Left alone, it starts a Python that imports vLLM once more to look, and keeps what it saw in its cache: some 8 s of
    CPU at the first start of every new container.
    """
    from vllm import ModelRegistry
    from vllm.model_executor.models.llava import LlavaForConditionalGeneration as Llava

    ModelRegistry.models.pop(Llava.__name__, None)  # or it warns of a second one
    ModelRegistry.register_model(Llava.__name__, Llava)


def _unsafe() -> str | None:
    """The reason why this process must not be forked, as a sentence; None where it may be."""
    import torch

    if not sys.platform.startswith("linux"):
        return "forking is for Linux"
    if sys.version_info >= (3, 14):
        return "multiprocessing's fork server has changed with Python 3.14"
    if threading.active_count() > 1:
        return f"threads run already: {', '.join(thread.name for thread in threading.enumerate())}"
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return "CUDA is initialised already"
    return None


def cause() -> str | None:
    """Why an engine process failed, in its own words; None where it said nothing since this was asked before."""
    return None if _output is None else _output.cause()


def _fork_server(output: Output) -> int:
    """The process id of a fork of this process that is multiprocessing's fork server."""
    state: Any = forkserver._forkserver
    ours = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    output.redirect()
    resource_tracker.ensure_running()
    address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    alive_r, alive_w = os.pipe()
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads: numpy's, which idle
        pid = os.fork()
    if pid == 0:
        os.close(alive_w)
        for _, kept in ours:
            os.close(kept)
        output.become_the_writer()
        try:
            _serve(listener.detach(), alive_r, parent)
        finally:
            os._exit(0)
    for descriptor, kept in ours:
        os.dup2(kept, descriptor)
        os.close(kept)
    os.setpgid(pid, pid)  # both sides do it: whoever comes first
    os.close(alive_r)
    listener.close()
    state._forkserver_address, state._forkserver_alive_fd, state._forkserver_pid = address, alive_w, pid
    return pid


def _serve(listener: int, alive_r: int, parent: int) -> None:
    """Serve forks until the parent is gone; then end every process that came of them."""
    os.setpgid(0, 0)
    # A SIGTERM to all of a service's processes is for the service, which drains and then ends this one.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, lambda *_: os.killpg(0, signal.SIGKILL))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR2)
    if os.getppid() != parent:
        return
    os.register_at_fork(after_in_child=_be_a_child)
    # The core forks its workers, where it has some: a fork server of its own would import everything again.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    if threads := os.environ.get("OMP_NUM_THREADS"):
        import torch

        torch.set_num_threads(int(threads))  # where OpenMP was loaded before the variable was set, it has not read it
    forkserver.main(listener, alive_r, [])


def _be_a_child() -> None:
    """In a process just forked: have the kernel kill it when its parent ends, and let SIGTERM end it again."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:  # it died before it could be asked for
        os._exit(1)


def _let_vllm_use_it() -> None:
    from vllm.v1.engine import utils

    stock = utils.get_mp_context

    def get_mp_context() -> Any:
        """The fork server's context, unless vLLM has a reason of its own against forking (WSL, NUMA, Ray)."""
        if _has_ended():
            log.error("the process that engines are forked from was killed: the next imports everything itself")
            return multiprocessing.get_context("spawn")
        chosen = stock()
        if environment.on_cpu() or chosen.get_start_method() == "fork":  # on a CPU vLLM has none, and says spawn
            return multiprocessing.get_context("forkserver")
        return chosen

    utils.get_mp_context = get_mp_context


def _has_ended() -> bool:
    """Whether the fork server has; this process is its parent."""
    try:
        return _server is not None and os.waitpid(_server, os.WNOHANG)[0] == _server
    except ChildProcessError:
        return True


def kill_engines() -> None:
    """End every engine process now, be it half started; what waits for one sees it die."""
    from vllm.utils.system_utils import kill_process_tree

    for child in multiprocessing.active_children():
        if child.pid is not None:
            kill_process_tree(child.pid)


def abandon() -> None:
    """End every engine process and the fork server, without asking anything of anybody: this process ends too."""
    if _server is not None and not _has_ended():
        os.killpg(_server, signal.SIGKILL)
    for child in multiprocessing.active_children():
        child.kill()
