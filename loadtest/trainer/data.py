"""`make bench-data`: memory and rows a second of the `data` commands over 600,000 rows.

Rows and pictures are those of `make bench-rows`, drawn once. Each command runs in a process of its own, as a user
starts it; lines of JSON have seconds in all, rows a second, and the most memory that it held of its own (not of
files that it maps), its children's counted too, in gigabytes. The first `check` reads every picture; the commands
behind it find what it kept. `import` reads the same rows as one JSON array of LLaVA's form.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.trainer.rows import Rows, drawn

_MOST_GB = 1.0


class Data(BaseSettings):
    """Measure the `data` commands' memory and speed over generated rows."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.trainer.data"
    )

    rows: int = Field(600_000, gt=0, description="rows in all")
    images: int = Field(150_000, gt=0, description="pictures that the rows are about, each file another picture")
    model: str = Field("models/tiny-llava", description="whose tokens `report` counts, and by whose tower `score` sees")
    commands: list[str] = Field([], description="only these, by their names below [all]")
    work: Path = Field(Path("build/rows"), description="where pictures and rows are kept, and what commands write")


def main(arguments: list[str]) -> int:
    """Draw, run each command, and print; returns the exit status: 1 where a command failed or took 1 GB or more."""
    options = CliApp.run(Data, cli_args=arguments)
    data = drawn(Rows(rows=options.rows, images=options.images, work=options.work))
    out = options.work / "data"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    worst = 0
    for name, command in commands(options, data, out).items():
        if options.commands and name not in options.commands:
            continue
        status, seconds, own, children = measured([sys.executable, "-m", "trainer", "data", *command])
        print(
            json.dumps(
                {
                    "bench": "data",
                    "command": name,
                    "rows": options.rows,
                    "images": options.images,
                    "status": status,
                    "seconds": round(seconds, 1),
                    "rows_a_second": round(options.rows / seconds),
                    "own_gb": round(own / 1e9, 3),
                    "children_gb": round(children / 1e9, 3),
                }
            ),
            flush=True,
        )
        worst = max(worst, int(status != 0 or own + children >= _MOST_GB * 1e9))
    return worst


def commands(options: Data, data: Path, out: Path) -> dict[str, list[str]]:
    """The commands by name, in the order in which they run."""
    rows = ["--data", str(data), "--images", str(data.parent)]
    kept = ["--index", str(out / "index")]
    return {
        "check": ["check", *rows, *kept],
        "check again": ["check", *rows, *kept],
        "filter": ["filter", *rows, *kept, "--output", str(out / "filtered.jsonl")],
        "dedupe": ["dedupe", *rows, *kept, "--output", str(out / "deduped.jsonl")],
        "split": ["split", *rows, *kept, "--output", str(out / "train.jsonl"), "--held-out", str(out / "held.jsonl")],
        "mix": [
            *("mix", *rows, "--weight", "1", *rows, "--weight", "1", "--rows", str(options.rows)),
            *("--output", str(out / "mixed.jsonl")),
        ],
        "report": ["report", *rows, *kept, "--model", options.model, "--output", str(out / "report.html")],
        "import": [
            *("import", "--source", str(_array(data, out)), "--images", str(data.parent)),
            *("--output", str(out / "imported.jsonl")),
        ],
        "score": [
            *("score", *rows, *kept, "--model", options.model, "--by", "agreement"),
            *("--output", str(out / "scored.jsonl")),
        ],
    }


def _array(data: Path, out: Path) -> Path:
    """The same rows as one JSON array of LLaVA's conversations."""
    file = out / "array.json"
    with data.open() as lines, file.open("w") as array:
        array.write("[")
        for number, line in enumerate(lines):
            row = json.loads(line)
            said = [{"from": "human", "value": f"<image>\n{row['question']}"}, {"from": "gpt", "value": row["answer"]}]
            record = {"id": str(number), "image": row["image"], "conversations": said}
            array.write(("," if number else "") + json.dumps(record))
        array.write("]")
    return file


def measured(command: list[str]) -> tuple[int, float, int, int]:
    """Status, seconds, and the most bytes that the process and that its children held at one time of their own."""
    began = time.perf_counter()
    own = children = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            mine, others = _held(process.pid), sum(map(_held, _below(process.pid)))
            if mine + others > own + children:
                own, children = mine, others
            time.sleep(0.2)
    return process.returncode, time.perf_counter() - began, own, children


def _held(process: int) -> int:
    """Bytes of memory that are a process's own, resident; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def _below(process: int) -> Iterator[int]:
    """The ids of a process's children, and of theirs."""
    try:
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return
    for child in map(int, found):
        yield child
        yield from _below(child)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
