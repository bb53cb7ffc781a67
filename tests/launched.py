"""The trainer in several processes on CPUs, each in the environment that `accelerate launch` makes for it.

accelerate runs DDP on CPUs, but FSDP and DeepSpeed on GPUs alone. For these two of its methods are replaced: what the
backend is (gloo), and what the device is (the CPU). All else is what runs on GPUs, PyTorch and DeepSpeed included.
"""

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from accelerate import DistributedType, PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from tests.conftest import ROOT

PROCESSES = 2
ONE, DDP, FSDP, ZERO2, ZERO3 = "one", "ddp", "fsdp", "zero2", "zero3"
# Each process is forked from one that has imported all: importing takes longer than most of these trainings.
_FORKED = get_context("forkserver")
_FORKED.set_forkserver_preload(
    ["tests.launched", "trainer.__main__", "trainer.commands.train", "trainer.commands.base"]
)


def start(kind: str, arguments: Sequence[str], log: Path) -> list[BaseProcess]:
    """Start `python -m trainer ARGUMENTS` in PROCESSES processes, or in ONE; process i writes to `log`.i."""
    # One thread, so that sums are the same every time.
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}  # read by the forked processes' imports
    environment = _environment(kind)
    ranks = range(1 if kind == ONE else PROCESSES)
    return [_started(kind, environment | _place(rank, len(ranks)), arguments, Path(f"{log}.{rank}")) for rank in ranks]


def run(kind: str, arguments: Sequence[str], log: Path) -> None:
    """Like `start`, and wait; a process that fails fails the test, with what it wrote."""
    processes = start(kind, arguments, log)
    for process in processes:
        process.join()
    failed = [rank for rank, process in enumerate(processes) if process.exitcode]
    assert not failed, f"process {failed[0]} of {kind}: {Path(f'{log}.{failed[0]}').read_text()[-6000:]}"


def _started(kind: str, environment: dict[str, str], arguments: Sequence[str], log: Path) -> BaseProcess:
    process = _FORKED.Process(target=_process, args=(kind, environment, list(arguments), log))
    process.start()
    return process


def _environment(kind: str) -> dict[str, str]:
    """What accelerate's launcher sets for a file of `trainer/accelerate/`, or for DDP on CPUs."""
    if kind == ONE:
        return {}
    file = ["--config_file", str(ROOT / f"trainer/accelerate/{kind}.yaml")] if kind != DDP else ["--cpu"]
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    given = ["--num_processes", str(PROCESSES), "--num_machines", "1", "--main_process_port", port]
    parsed, defaults, _ = _validate_launch_command(launch_command_parser().parse_args([*file, *given, "trainer"]))
    if kind in (ZERO2, ZERO3):
        parsed.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        set_by_it = prepare_deepspeed_cmd_env(parsed)[1]
    else:
        set_by_it = (prepare_multi_gpu_env if kind == FSDP else prepare_simple_launcher_cmd_env)(parsed)
        set_by_it = set_by_it if isinstance(set_by_it, dict) else set_by_it[1]
    return {**set_by_it, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def _place(rank: int, processes: int) -> dict[str, str]:
    """What torchrun sets."""
    if processes == 1:
        return {}
    of = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    return {name: str(value) for name, value in of.items()}


def _process(kind: str, environment: dict[str, str], arguments: list[str], log: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(log.parent)  # `base` keeps its runs in runs/
    os.environ.update(environment)
    torch.set_num_threads(1)
    from trainer.__main__ import main

    if kind not in (ONE, DDP):
        PartialState.set_device = _on_cpu
        _take_gloo_for_gpus(deepspeed=kind != FSDP)
    status = main(arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.exit(status)


def _on_cpu(state: PartialState) -> None:
    """As trainer.loop has it for DDP; the others are taken for GPUs here, and would be given some."""
    state.device = torch.device("cpu")


def _take_gloo_for_gpus(deepspeed: bool) -> None:
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    if deepspeed:
        from deepspeed import comm

        comm.init_distributed("gloo", auto_mpi_discovery=False)
    else:
        torch.distributed.init_process_group("gloo")
