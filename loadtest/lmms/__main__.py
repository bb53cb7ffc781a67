"""`python -m loadtest.lmms`: lmms-eval's scores of a served adapter beside the trainer's, on the same rows.

Writes two small data sets, and trains an adapter that answers with letters, unless build/lmms-eval/adapters has one
that was trained with the same options on the same rows. Serves it and `digits` on the embedded model, and has lmms-eval
ask both through OpenAI's routes, with its own code for ScienceQA and ChartQA. Then `trainer evaluate` asks `/v1/vqa`
the prompts that lmms-eval logged. Prints a JSON line for each task, with the answers that differ.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.lmms import sets
from loadtest.process import serving
from trainer.commands.evaluate import evaluate
from trainer.config.evaluation import EvaluateOptions
from trainer.evaluation.result import Evaluation
from trainer.metrics import METRICS

# The files of loadtest/lmms/tasks contain this path.
FOLDER = Path("build/lmms-eval")
_SETS, _STORE = FOLDER / "sets", FOLDER / "adapters"


@dataclass(frozen=True)
class Task:
    """A task of lmms-eval: its pictures, the adapter that is asked, and the metric's name there and at the trainer."""

    name: str
    images: Path
    adapter: str
    theirs: str
    ours: str


TASKS = (
    Task("scienceqa_local", _SETS / "scienceqa/test", "letters", "exact_match", "normalised"),
    Task("chartqa_local", _SETS / "chartqa/test", "digits", "relaxed_overall", "relaxed"),
)


class Lmms(BaseSettings):
    """Score served adapters by lmms-eval and by the trainer."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.lmms"
    )

    model: Path = Field(Path("models/tiny-llava-int4"), description="checkpoint to train on and to serve")
    data: Path = Field(Path("build/data"), description="where `make adapters` keeps shapes and digits")
    rows: int = Field(200, gt=0, description="questions of each task")
    training_rows: int = Field(600, gt=0, description="rows that the adapter `letters` is trained on")
    epochs: int = Field(4, gt=0, description="times that it sees them")
    command: Path = Field(FOLDER / "venv/bin/lmms-eval", description="lmms-eval's command")
    port: int = Field(8450, gt=0, description="port of the service started")


def main(arguments: list[str]) -> int:
    """Train, serve, ask, print; returns the exit status: 1 where a score of lmms-eval's is not the trainer's."""
    options = CliApp.run(Lmms, cli_args=arguments)
    sets.write_scienceqa(options.data / "shapes", _SETS / "scienceqa", options.rows, options.training_rows)
    sets.write_chartqa(options.data / "digits", _SETS / "chartqa", options.rows)
    _publish(options)
    lines = []
    with serving(
        "service", options.port, "--model", str(options.model), "--adapters", str(_STORE), "--log-level", "warning"
    ) as url:
        for task in TASKS:
            theirs = _ask_by_lmms_eval(options, url, task)
            lines.append(compare(task, theirs, _ask_by_trainer(url, task, theirs)))
    for line in lines:
        print(json.dumps({"bench": "lmms-eval", "load": round(os.getloadavg()[0], 1), **line}), flush=True)
    return int(any(line["lmms_eval"] != line["trainer"] for line in lines))


def _publish(options: Lmms) -> None:
    """Make the store: the repository's `digits`, and `letters`, trained unless the same training made it before.

    The command that trained it and the digest of its rows are in letters.json beside the store.
    """
    shutil.copytree("models/adapters/digits", _STORE / "digits", dirs_exist_ok=True)
    rows, made = _SETS / "scienceqa/train.jsonl", _STORE.with_name("letters.json")
    command = [
        sys.executable, "-m", "trainer", "train", "--name", "letters", "--modality", "image",
        "--model", str(options.model), "--data", str(rows),
        "--images", str(options.data / "shapes/images"), "--store", str(_STORE), "--output", str(FOLDER / "run"),
        "--epochs", str(options.epochs), "--learning-rate", "3e-3", "--rows-per-step", "32", "--rank", "16",
    ]  # fmt: skip
    training = json.dumps({"command": command[1:], "rows": hashlib.sha256(rows.read_bytes()).hexdigest()})
    if (_STORE / "letters/aliases.json").exists() and made.exists() and made.read_text() == training:
        return
    for old in (FOLDER / "run", _STORE / "letters"):
        shutil.rmtree(old, ignore_errors=True)
    subprocess.run(command, check=True)
    made.write_text(training)


def _ask_by_lmms_eval(options: Lmms, url: str, task: Task) -> list[dict[str, Any]]:
    """Run a task of lmms-eval; returns what it logs of each row: `input`, `target`, `filtered_resps` and its metric.

    Raises:
        SystemExit: it left no log. lmms-eval ends with 0 though it failed, and writes the reason to stderr.
        subprocess.CalledProcessError: it ended with another status.
    """
    out = FOLDER / "out" / task.name
    shutil.rmtree(out, ignore_errors=True)
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str((FOLDER / "hf").resolve()), "OPENAI_API_KEY": "none"}
    subprocess.run(
        [
            str(options.command), "eval", "--model", "openai",
            "--model_args", f"model={task.adapter},base_url={url}/v1,timeout=120",
            "--tasks", task.name, "--include_path", str(Path(__file__).parent / "tasks"),
            "--batch_size", "1", "--log_samples", "--output_path", str(out),
        ],
        check=True, stdout=sys.stderr, env=os.environ | offline,
    )  # fmt: skip
    logs = list(out.rglob(f"*_samples_{task.name}.jsonl"))
    if not logs:
        raise SystemExit(f"lmms-eval has written no answers below {out}: its own messages are above")
    samples = [json.loads(line) for line in logs[0].read_text(encoding="utf-8").splitlines()]
    return sorted(samples, key=lambda sample: int(sample["doc_id"]))


def _ask_by_trainer(url: str, task: Task, samples: list[dict[str, Any]]) -> Evaluation:
    """`trainer evaluate` on the prompts and right answers that lmms-eval logged, with the same pictures."""
    names = [json.loads(line)["file_name"] for line in (task.images / "metadata.jsonl").read_text().splitlines()]
    rows = [
        {"id": str(sample["doc_id"]), "image": names[sample["doc_id"]], "question": sample["input"]}
        | {"answer": sample["target"]}
        for sample in samples
    ]
    file = FOLDER / f"{task.name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    named = {"data": str(file), "images": str(task.images)}
    (found,) = evaluate(EvaluateOptions(url=[url], adapter=[task.adapter], blind_rows=0, **named))
    return found


def compare(task: Task, samples: list[dict[str, Any]], ours: Evaluation) -> dict[str, Any]:
    """Both scores in percent, and the rows whose answers or whose scores differ."""
    said = {row.id: answer for row, answer in zip(ours.rows, ours.answers, strict=True)}
    metric = METRICS[task.ours]
    their_scores = [float(sample[task.theirs]) for sample in samples]
    our_scores = [metric(sample["target"], said[str(sample["doc_id"])]) for sample in samples]
    other = [sample for sample in samples if said[str(sample["doc_id"])] != sample["filtered_resps"].strip()]
    return {
        "task": task.name,
        "adapter": task.adapter,
        "rows": len(samples),
        "lmms_eval": _percent(their_scores),
        "trainer": _percent(our_scores),
        "metrics": [task.theirs, task.ours],
        "other_answers": [
            [sample["target"], sample["filtered_resps"], said[str(sample["doc_id"])]] for sample in other
        ],
        "other_scores": sum(mine != other for mine, other in zip(our_scores, their_scores, strict=True)),
    }


def _percent(scores: list[float]) -> float:
    return round(100 * sum(scores) / len(scores), 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
