"""`python -m loadtest.gpu`: every measurement of docs that needs a GPU, one step after the other.

Each step is timed and writes one JSON line to WORK/results.jsonl when it is done. Started again, it runs the steps that
have no line yet or failed, and `--only '["STEP"]'` runs one again. Where a step fails, its line has the error, and the
next one runs. Without a GPU it runs on the CPU, which is for `--size small`: tests/test_loadtest_gpu.py does that.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from service.settings import Rank

QUESTIONS = (1, 4, 16)


class Recipe(BaseSettings):
    """Write a replica of LLaVA-1.5, then measure service and trainer on it. Its weights are random."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_GPU_", cli_kebab_case=True, cli_prog_name="python -m loadtest.gpu"
    )

    size: Literal["7b", "13b", "small"] = Field("7b", description="LLaVA-1.5's shape, or a few megabytes for a trial")
    work: Path = Field(Path("build/gpu"), description="where replicas, data and results.jsonl lie")
    only: tuple[str, ...] = Field((), description='steps to run, again or for the first time, as JSON: ["serve-int4"]')
    adapters: int = Field(8, gt=0, description="adapters in one batch")
    rank: Rank = Field(64, description="of the adapters")
    answer: int = Field(64, gt=1, description="tokens of an answer")
    clients: int = Field(64, gt=0, description="questions asked at once, where throughput is measured")
    rounds: int = Field(3, gt=0, description="times that base and adapters are asked in turn")
    load_s: float = Field(4.0, gt=0, description="seconds of each scenario at each rate, and of each side in a round")
    rows: int = Field(512, gt=0, description="training rows of each case")
    rows_per_step: int = Field(64, gt=0, description="rows of one update, on both sides")
    step_s: float = Field(300.0, gt=0, description="seconds that one step may take")
    port: int = Field(8196, description="port of the services started")

    @property
    def results(self) -> Path:
        """The file of the JSON lines."""
        return self.work / "results.jsonl"

    def model(self, precision: str) -> Path:
        """The directory of the replica of that precision (int4, bfloat16)."""
        return self.work / precision


Step = Callable[[Recipe], dict[str, Any]]


def steps() -> dict[str, Step]:
    """Every step by its name, in order."""
    from loadtest.gpu import load, make, picture, serve, train

    return {
        "machine": make.machine,
        "replica-int4": partial(make.replica, precision="int4"),
        "replica-bfloat16": partial(make.replica, precision="bfloat16"),
        "weights": make.weights,
        "adapters": make.adapters,
        "serve-int4": partial(serve.measure, precision="int4"),
        "serve-bfloat16": partial(serve.measure, precision="bfloat16"),
        "load-int4": load.arrive,
        "side-by-side": load.beside,
        **{f"train-{count}": partial(train.measure, questions=count) for count in QUESTIONS},
        "picture": picture.draw,
    }


def main(arguments: list[str]) -> int:
    """Run the steps that are left; returns the exit status: 1 where a step failed, 2 for an unknown step."""
    recipe = CliApp.run(Recipe, cli_args=arguments)
    recipe.work.mkdir(parents=True, exist_ok=True)
    known = steps()
    if unknown := sorted(set(recipe.only) - set(known)):
        print(f"--only: no step is called {', '.join(unknown)}: there are {', '.join(known)}", file=sys.stderr)
        return 2
    done = {line["step"] for line in read(recipe.results) if "error" not in line and line["size"] == recipe.size}
    failed = False
    for name, step in known.items():
        if name not in recipe.only if recipe.only else name in done:
            continue
        line = _run(recipe, name, step)
        failed |= "error" in line
        with recipe.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    return int(failed)


def read(results: Path) -> list[dict[str, Any]]:
    """All lines so far, in the order in which they were written."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []


def latest(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The last line of each step that went well."""
    return {line["step"]: line for line in read(recipe.results) if "error" not in line and line["size"] == recipe.size}


def _run(recipe: Recipe, name: str, step: Step) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        found = step(recipe)
    except (Exception, SystemExit) as error:  # the next step may work, and time on a GPU is expensive
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}"[:500]}
    seconds = round(time.perf_counter() - began, 1)
    return {"bench": "gpu", "step": name, "size": recipe.size, "weights": "random", "seconds": seconds, **found}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
