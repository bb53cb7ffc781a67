"""`make bench-quantize`: `trainer quantize` by GPTQ at the 7B's width: seconds of a layer, and the largest memory.

Writes a replica in bfloat16 with so many layers, and rows of pictures and of text; runs the command in a process of its
own, and prints a line of JSON for each number of layers. Memory that does not grow with the layers is what a model of
all layers takes too.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.trainer.planned import drawn
from models import replica

# Of a third of the rows; the others are about pictures.
_TEXT = ("name a colour", "name a shape", "how many is a pair?")


class Packing(BaseSettings):
    """Pack replicas of a few layers and say what that takes."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.trainer.packed"
    )

    size: Literal["7b", "13b", "small"] = Field("7b", description="the width: LLaVA-1.5's, or a few megabytes")
    layers: list[int] = Field([2, 4], description="layers of the replicas that are packed, one after the other")
    samples: int = Field(8, gt=0, description="rows that GPTQ sees, a third of them text")
    work: Path = Field(Path("build/packed"), description="where replicas and copies lie; replicas are not made again")


def main(arguments: list[str]) -> int:
    """Pack each and print; returns the exit status."""
    options = CliApp.run(Packing, cli_args=arguments)
    for layers in options.layers:
        print(json.dumps(measured(options, layers)), flush=True)
    return 0


def measured(options: Packing, layers: int) -> dict[str, Any]:
    """Pack one replica: what the command printed, its seconds, and those from one layer's file to the next."""
    source = options.work / f"{options.size}-{layers}"
    if not source.exists():
        replica.write(replica.Replica(output=source, size=options.size, layers=layers, precision="bfloat16"))
    pictures = rows(options.work / "rows")
    target = options.work / f"{source.name}-int4-{int(time.time())}"
    command = [
        sys.executable, "-m", "trainer", "quantize", "--model", str(source), "--output", str(target),
        "--data", str(pictures / "mixed.jsonl"), "--images", str(pictures), "--samples", str(options.samples),
        "--holdout", "0.05", "--group-size", "32" if options.size == "small" else "128",
    ]  # fmt: skip
    began = time.perf_counter()
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    seconds = time.perf_counter() - began
    (packed,) = (json.loads(line) for line in told if line.startswith('{"packed"'))
    written = sorted(file.stat().st_mtime for file in target.glob("model-*.safetensors"))
    return {
        "bench": "quantize", "size": options.size, "layers": layers, "weights": "random", "samples": options.samples,
        "seconds": round(seconds, 1), "layer_s": round((written[-1] - written[0]) / layers, 1), **packed,
    }  # fmt: skip


def rows(folder: Path) -> Path:
    """Pictures with questions, and as many rows of text as half of those about pictures."""
    if not (folder / "mixed.jsonl").exists():
        drawn(folder)
        lines = (folder / "rows.jsonl").read_text().splitlines()
        for number in range(0, len(lines), 2):
            lines.append(json.dumps({"question": f"{_TEXT[number % 3]} ({number})", "answer": "two"}))
        (folder / "mixed.jsonl").write_text("\n".join(lines[::-1]))
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
