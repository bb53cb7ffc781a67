"""Two sides that train the same in turn, each training in a process of its own: ours and TRL's."""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.config.training import LoopOptions

Run = dict[str, float]


def run(module: str, side: str, case: Path) -> Run:
    """What `python -m module SIDE CASE` prints as its last line, read as JSON; it is printed to stderr too.

    Raises:
        CalledProcessError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, side, str(case)], check=True, stdout=subprocess.PIPE, text=True
    )
    result: Run = json.loads(done.stdout.splitlines()[-1])
    print(side, json.dumps(result), file=sys.stderr)
    return result


def in_turn(module: str, cases: Sequence[Path]) -> list[tuple[Run, Run]]:
    """The results of ours and of TRL's, a pair for each case; which side goes first alternates."""
    runs = []
    for number, case in enumerate(cases):
        found = {side: run(module, side, case) for side in (("ours", "trl"), ("trl", "ours"))[number % 2]}
        runs.append((found["ours"], found["trl"]))
    return runs


def summary(runs: Sequence[tuple[Run, Run]], unit: str, measured: str) -> dict[str, Any]:
    """Medians of both sides: speed in `unit`, what was `measured` of what they learnt, memory; and the ratio of speeds.

    Of the ratio, ours over TRL's, the smallest and the largest too.
    """
    ratios = [peer["seconds"] / ours["seconds"] for ours, peer in runs]
    found: dict[str, Any] = {
        "ratio": round(statistics.median(ratios), 2),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
    }
    for place, prefix in enumerate(("", "peer_")):
        own = [pair[place] for pair in runs]
        seconds = statistics.median(each["seconds"] for each in own)
        found[f"{prefix}{unit}_per_second"] = round(statistics.median(each[unit] for each in own) / seconds, 1)
        found[f"{prefix}{measured}"] = round(statistics.median(each[measured] for each in own), 4)
        found[f"{prefix}peak_bytes"] = int(statistics.median(each["peak_bytes"] for each in own))
    return found


def peer_settings(options: LoopOptions, output: str) -> dict[str, Any]:
    """The settings of TRL's configurations by which it trains as our trainer does by `options`."""
    import torch

    return {
        "output_dir": output,
        "num_train_epochs": options.epochs,
        "per_device_train_batch_size": options.rows_per_step,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": options.warmup,
        "weight_decay": 0.0,
        "gradient_checkpointing": False,  # on by default; off here as on our side
        "bf16": options.precision == "bfloat16",
        "max_length": None,
        "save_strategy": "no",
        "logging_steps": 10,
        "report_to": "none",
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "seed": options.seed,
    }
