"""`make bench-7b`: a replica of LLaVA-1.5-7B in INT4 on this machine, served with two adapters of rank 64.

The steps are the commands that users run: `models.replica`, `trainer publish` for each adapter, `python -m service`
with its default sizes, and a question about a picture to the base and to both adapters over HTTP. Prints a JSON line
for each step, with seconds and the memory of its processes. Weights and adapters are random: speed and memory do not
depend on their values, and nothing here measures how well a model answers.
"""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import torch
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict
from safetensors.torch import save_file

from loadtest.process import serving
from service.adapters.modules import CONFIG, TARGETS, WEIGHTS, language_model_linears
from service.memory import GIB

ADAPTERS = ("first", "second")
PICTURE = Path(__file__).parent.parent.parent / "docs/circle.png"
QUESTION = "what color is the shape?"


class Size(BaseSettings):
    """Serve a replica of the true size with two adapters of rank 64, and say what it takes."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.service.size"
    )

    size: Literal["7b", "13b", "small"] = Field("7b", description="the shape: LLaVA-1.5's, or a few megabytes")
    layers: int | None = Field(None, gt=0, description="layers of the language model [all]")
    rank: int = Field(64, gt=0, description="of the adapters")
    max_tokens: int = Field(8, gt=0, description="longest answer")
    questions: int = Field(4, gt=0, description="stock questions that `trainer publish` asks of each adapter")
    max_model_len: int | None = Field(None, gt=0, description="the service's option [its default]")
    work: Path = Field(Path("build/size"), description="where replica and store lie; what is there is not made again")
    port: int = Field(8194, description="port of the service started")


@dataclass
class Step:
    """The most memory of one step's processes at once, in bytes, and further fields of its JSON line."""

    memory: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


def main(arguments: list[str]) -> int:
    """Make, publish, serve, ask; returns the exit status."""
    options = CliApp.run(Size, cli_args=arguments)
    measure(options, lambda line: print(json.dumps(line), flush=True))
    return 0


def measure(options: Size, tell: Callable[[dict[str, Any]], None]) -> None:
    """Run every step, and call `tell` with each one's line when it ends."""
    model, store = options.work / "model", options.work / "store"
    with _step("replica", options, tell) as step:
        if not model.exists():
            layers = ["--layers", str(options.layers)] if options.layers else []
            _run("models.replica", str(model), "--size", options.size, *layers)
        step.facts["weights_bytes"] = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    for seed, name in enumerate(ADAPTERS):
        if (store / name).exists():
            continue
        with _step(f"publish {name}", options, tell):
            adapter = options.work / "adapters" / name
            write_adapter(model, adapter, options.rank, seed)
            _run(
                "trainer", "publish", "--adapter", str(adapter), "--name", name, "--store", str(store),
                "--model", str(model), "--limit", str(options.questions), "--max-tokens", str(options.max_tokens),
            )  # fmt: skip
    arguments = ["--model", str(model), "--adapters", str(store)]
    if options.max_model_len:
        arguments += ["--max-model-len", str(options.max_model_len)]
    with _step("start", options, tell) as step:
        began = time.perf_counter()
        with serving("service", options.port, *arguments) as url:
            step.facts["ready_s"] = round(time.perf_counter() - began, 1)
            step.facts["options"] = arguments[4:]
            for who in (None, *ADAPTERS):
                step.facts[who or "base"] = ask(url, who, options.max_tokens)


def ask(url: str, adapter: str | None, max_tokens: int) -> dict[str, Any]:
    """Ask an adapter (None: the base) about PICTURE over HTTP; returns answer, tokens and seconds, or the error."""
    form = {"question": QUESTION, "max_tokens": str(max_tokens), "deadline_s": "600"}
    if adapter:
        form["adapter"] = adapter
    image = {"image": (PICTURE.name, PICTURE.read_bytes(), "image/png")}
    reply = httpx.post(f"{url}/v1/vqa", data=form, files=image, timeout=700)
    body = reply.json()
    if reply.is_error:
        return {"error": body["error"]}
    timing, usage = body["timing"], body["usage"]
    after = max(1, usage["completion_tokens"] - 1)
    return {
        "answer": body["answer"],
        "image_tokens": usage["image_tokens"],
        "prompt_tokens": usage["prompt_tokens"],
        "first_token_s": round(timing["first_token_s"], 2),
        "token_s": round((timing["total_s"] - timing["first_token_s"]) / after, 3),
    }


def write_adapter(model: Path, folder: Path, rank: int, seed: int) -> None:
    """Write a random LoRA on every linear of the language model to `folder`, in PEFT's files.

    What it adds to a linear's outputs is on average as large as the linear's inputs, so that it changes answers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, (outputs, inputs) in language_model_linears(model).items():
        stem = f"base_model.model.{name}"
        down = torch.randn(rank, inputs, generator=generator) / math.sqrt(inputs)
        up = torch.randn(outputs, rank, generator=generator) / math.sqrt(rank)
        tensors |= {f"{stem}.lora_A.weight": down.bfloat16(), f"{stem}.lora_B.weight": up.bfloat16()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    # Names such as q_proj alone would be found in the vision tower too.
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none", "target_modules": TARGETS}
    (folder / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": str(model), "task_type": None}))


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=sys.stderr)


@contextmanager
def _step(name: str, options: Size, tell: Callable[[dict[str, Any]], None]) -> Iterator[Step]:
    """Time a block, and sample the memory of the processes that it starts every two seconds."""
    step, over = Step(), threading.Event()
    spent = _cpu_seconds()

    def watch() -> None:
        while not over.wait(2.0):
            step.memory = max(step.memory, children_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    try:
        yield step
    finally:
        over.set()
        watcher.join()
    tell(
        {
            "bench": "size", "step": name, "size": options.size, "layers": options.layers, "weights": "random",
            "seconds": round(time.perf_counter() - began, 1), "cpu_s": round(_cpu_seconds() - spent, 1),
            "peak_gib": round(step.memory / GIB, 2), **step.facts,
        }
    )  # fmt: skip


def _cpu_seconds() -> float:
    """CPU seconds of this process's children, and theirs, that have ended and were waited for."""
    times = os.times()
    return times.children_user + times.children_system


def children_bytes() -> int:
    """Resident bytes of all descendants of this process, pages that several share counted once."""
    return sum(_resident(pid) for pid in _descendants(os.getpid()))


def _descendants(pid: int) -> Sequence[int]:
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):  # it has ended
                continue
            parents.setdefault(parent, []).append(int(folder.name))
    found = list(parents.get(pid, ()))
    for each in found:
        found += parents.get(each, [])
    return found


def _resident(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
