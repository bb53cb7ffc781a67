"""`make bench-rows`: what 600,000 rows over 150,000 small pictures cost `trainer train` up to its first step.

Pictures and rows are drawn first, each picture another one. Then the real command runs in a process of its own until
the first update's loss is in its log, and is stopped there. Told in lines of JSON: seconds, the most memory that the
process held (of its own, and of files that it maps), and the bytes of features on disk. A second run, which finds
digests and features made, is measured as well. Few tokens an image keep the time within minutes on two cores: by
default the model is `models.replica` of size small, 16 tokens an image; with another --model it is that one.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict
from tqdm import tqdm

_ANSWERS = ("red", "green", "blue", "black", "white", "yellow", "brown", "purple")
_QUESTIONS = (
    "what color is the block in the corner?",
    "which color has the {} block of the second row?",
    "name the color of the block beside the {} one.",
    "is the {} block lighter than the one below it, and which color is it?",
)
_PLACES = ("first", "second", "third", "last")


class Rows(BaseSettings):
    """Measure a training's memory, time and disk up to its first step, over generated rows."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.trainer.rows"
    )

    rows: int = Field(600_000, gt=0, description="rows in all")
    images: int = Field(150_000, gt=0, description="pictures that the rows are about, each file another picture")
    model: Path | None = Field(None, description="base checkpoint [a replica of size small, written here]")
    work: Path = Field(Path("build/rows"), description="where pictures, rows, features and runs are kept")
    limit_s: float = Field(3600, gt=0, description="seconds in which the first step has to come")


def main(arguments: list[str]) -> int:
    """Draw, train twice up to the first step, and print; returns the exit status: 1 where a run took 2 GB or more."""
    options = CliApp.run(Rows, cli_args=arguments)
    began = time.perf_counter()
    data = drawn(options)
    _print(step="draw", rows=options.rows, images=options.images, seconds=round(time.perf_counter() - began, 1))
    features = options.work / "features"
    shutil.rmtree(features, ignore_errors=True)
    most = 0.0
    for which in ("first", "second"):
        found = up_to_the_first_step(options, data, features)
        size = sum(file.stat().st_size for file in features.rglob("*") if file.is_file())
        most = max(most, found["own_gb"])
        _print(step=f"{which} run", **found, features_gb=round(size / 1e9, 3))
    return int(most >= 2)


def drawn(options: Rows) -> Path:
    """The file of rows; it and the pictures beside it are made if they are not there."""
    folder = options.work / f"{options.rows}-{options.images}"
    data = folder / "rows.jsonl"
    if data.is_file():
        return data
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (options.images, 4, 4, 3), dtype=np.uint8)
    for number in tqdm(range(options.images), desc="pictures", unit="image"):
        file = folder / _name(number)
        if number % 1000 == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(blocks[number].repeat(8, 0).repeat(8, 1))
        picture.save(file, compress_level=1)
    part = data.with_suffix(".part")
    with part.open("w") as out:
        for row in range(options.rows):
            image, repeat = row % options.images, row // options.images
            question = _QUESTIONS[repeat % len(_QUESTIONS)].format(_PLACES[row % len(_PLACES)])
            answer = _ANSWERS[int(blocks[image, 0, repeat % 4, 0]) % len(_ANSWERS)]
            out.write(json.dumps({"image": _name(image), "question": question, "answer": answer}) + "\n")
    part.rename(data)
    return data


def up_to_the_first_step(options: Rows, data: Path, features: Path) -> dict[str, float]:
    """Seconds and gigabytes of a training that is stopped when its first loss is logged.

    Raises:
        SystemExit: it ended before that.
    """
    run = options.work / "run"
    shutil.rmtree(run, ignore_errors=True)
    model = options.model or _replica(options.work / "model")
    paths = ["--data", str(data), "--images", str(data.parent), "--model", str(model), "--output", str(run)]
    paths += ["--store", str(options.work / "store"), "--feature-cache", str(features)]
    command = [sys.executable, "-m", "trainer", "train", "--name", "rows", *paths, "--log-steps", "1", "--rank", "8"]
    began = time.perf_counter()
    with subprocess.Popen(command) as process:
        log, status = run / "log.jsonl", Path(f"/proc/{process.pid}/status")
        held: dict[str, int] = {}
        own = 0
        while not (log.is_file() and log.read_text().strip()):
            if process.poll() is not None or time.perf_counter() - began > options.limit_s:
                process.kill()
                raise SystemExit(f"no first step: {' '.join(command)} ended with status {process.poll()}")
            held = _memory(status) or held
            own = max(own, held.get("RssAnon", 0) + held.get("RssShmem", 0))
            time.sleep(0.1)
        seconds = time.perf_counter() - began
        process.send_signal(signal.SIGKILL)
    mapped = held.get("VmHWM", 0)
    return {"seconds": round(seconds, 1), "own_gb": round(own / 1e9, 3), "with_mapped_files_gb": round(mapped / 1e9, 3)}


def _memory(status: Path) -> dict[str, int]:
    """Bytes by Linux's names: VmHWM, the most that was resident; RssAnon, the process's own; RssFile, files mapped."""
    try:
        lines = [line.split() for line in status.read_text().splitlines() if line.endswith("kB")]
    except OSError:
        return {}
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in lines}


def _replica(folder: Path) -> Path:
    if not folder.exists():
        from models.replica import Replica, write

        write(Replica(output=folder, size="small", precision="bfloat16"))
    return folder


def _name(image: int) -> str:
    return f"{image // 1000:03d}/{image % 1000:03d}.png"


def _print(**line: object) -> None:
    print(json.dumps({"bench": "rows", **line}), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
