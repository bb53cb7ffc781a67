"""`make bench-plan`: the memory that a training is planned to take, beside the peak that it was measured to have.

Each case is a real training of a few updates in a process of its own: the embedded model, and replicas of the 7B's
width in few layers, with and without checkpointing, at several --tokens. A line of JSON for each: what was planned and
measured of the whole process, their ratio, and the same of what the training adds to the process before it. On a CPU,
where the peak is the kernel's own count of resident memory; it is set back when the training begins.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

# Layers of the 7B's width, or 0 for the embedded model; tokens; checkpointing.
CASES = (
    (0, 1024, False),
    (0, 8192, False),
    (0, 8192, True),
    (2, 1024, False),
    (2, 2048, False),
    (2, 2048, True),
    (4, 2048, False),
    (4, 2048, True),
)
_COLOURS = ("red", "green", "blue", "black", "orange", "purple", "brown", "navy", "teal", "pink", "gold", "gray")


class Planned(BaseSettings):
    """Compare planned with measured memory of trainings on a CPU."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.trainer.planned"
    )

    work: Path = Field(Path("build/planned"), description="where replicas, pictures and features are kept")
    layers: list[int] = Field([0, 2, 4], description="cases to run, by layers at the 7B's width; 0: the embedded model")
    case: list[int] = Field([], description="one case alone, in this process: layers, tokens, checkpointing as 0 or 1")


def main(arguments: list[str]) -> int:
    """Run every case and print; returns the exit status: 1 where a plan is off by more than 15%."""
    options = CliApp.run(Planned, cli_args=arguments)
    if options.case:
        layers, tokens, checkpointing = options.case
        print(json.dumps(measured(options.work, layers, tokens, bool(checkpointing))))
        return 0
    off = 0
    drawn(options.work / "pictures")
    for layers, tokens, checkpointing in CASES:
        if layers not in options.layers:
            continue
        _base(options.work, layers)
        case = ["--case", str(layers), "--case", str(tokens), "--case", str(int(checkpointing))]
        command = [sys.executable, "-m", "loadtest.trainer.planned", "--work", str(options.work), *case]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        print(told, flush=True)
        off += abs(json.loads(told)["ratio"] - 1) > 0.15
    return int(off > 0)


def drawn(folder: Path) -> None:
    """Pictures with three questions each, enough for updates of 96 rows, and their rows; few.jsonl has some of them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(48):
        picture = Image.new("RGB", (300, 200 + number), "white")
        colour = _COLOURS[number % len(_COLOURS)]
        ImageDraw.Draw(picture).ellipse((80, 40, 220, 160), fill=colour)
        picture.save(folder / f"{number}.png")
        for question, answer in (("what color is it?", colour), ("which shape?", "a disc"), ("how many?", "one")):
            lines.append(json.dumps({"image": f"{number}.png", "question": question, "answer": answer}))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "few.jsonl").write_text("\n".join(lines[:45]))


def measured(work: Path, layers: int, tokens: int, checkpointing: bool) -> dict[str, object]:
    """Train two updates in this process, and say what was planned and what was held."""
    from trainer.adapter.lora import add_lora
    from trainer.config.training import TrainOptions
    from trainer.data.split import read_sides
    from trainer.model.checkpoint import Checkpoint
    from trainer.training.arguments import uses_bfloat16
    from trainer.training.loop import fit
    from trainer.training.meter import resident_bytes
    from trainer.training.prepare import prepare

    pictures = work / "pictures"
    data = pictures / ("few.jsonl" if layers else "rows.jsonl")  # the 7B's tower takes seconds for a picture
    given = {"name": "x", "data": str(data), "images": str(pictures), "tokens": tokens}
    how = {"gradient_checkpointing": checkpointing, "max_steps": 2, "rows_per_step": 96 if layers == 0 else 12}
    options = TrainOptions.model_validate({**given, **how, "feature_cache": work / "features", "rank": 64})
    sides = read_sides(options.sets, None, options.holdout, options.seed, options.feature_cache)
    checkpoint = Checkpoint.load(_base(work, layers), bfloat16=uses_bfloat16(options))
    learns = partial(add_lora, options=options)
    lessons = prepare(checkpoint, sides.train, sides.held_out, sides.digests, options, learns)
    assert lessons
    assert lessons.planned
    held = resident_bytes()
    model = learns(checkpoint.model)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held
    with TemporaryDirectory() as run:
        fit(model, lessons, options, Path(run))
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    plan = lessons.planned
    gigabytes = {
        "planned_gb": plan.total,
        "measured_gb": peak,
        "training_planned_gb": plan.more,
        "training_measured_gb": peak - held,
    }
    return {
        "bench": "plan",
        "base": f"7B's width, {layers} layers" if layers else "embedded",
        "tokens": tokens,
        "checkpointing": checkpointing,
        **{name: round(size / 1e9, 3) for name, size in gigabytes.items()},
        "ratio": round(plan.total / peak, 3),
        "training_ratio": round(plan.more / (peak - held), 3),
    }


def _base(work: Path, layers: int) -> Path:
    if not layers:
        return Path("models/tiny-llava")
    folder = work / f"base-{layers}"
    if not folder.exists():
        from models.replica import Replica, write

        write(Replica(output=folder, layers=layers, precision="bfloat16"))
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
