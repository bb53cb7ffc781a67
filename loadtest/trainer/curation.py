"""`make bench-curation`: what the curation commands are worth on a bad set, by the accuracy of adapters trained on it.

Of scikit-learn's handwritten digits a bad training set is made by a seed: 1,000 rows, of which 70% have one answer, a
fifth are near-duplicates (compressed again, scaled and a little paler, under other names) and a tenth say a wrong
digit. An adapter is trained on it as it is, and one on what `data dedupe`, `data score --by agreement` (by the base's
own tower) and `data balance` leave of it, with the same options and as many updates; both are asked the clean held-out
digits, which every training is kept from. Lines of JSON tell what each command found of what is wrong, and the
accuracies; the last has the means over the seeds.
"""

import io
import json
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from models.datasets import ASKS, write_digits

ROWS, COMMON, COPIES, WRONG = 1000, 0.7, 0.2, 0.1
BASE = "models/tiny-llava"


class Curation(BaseSettings):
    """Train on a bad set as it is and on what curation leaves of it, and ask both clean held-out rows."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix="MANYLENS_",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_prog_name="python -m loadtest.trainer.curation",
    )

    work: Path = Field(Path("build/curation"), description="where sets, pictures and runs are kept")
    seeds: int = Field(3, gt=0, description="sets and trainings, each pair of another seed")
    updates: int = Field(100, gt=0, description="updates of each training")
    most_share: float = Field(0.25, gt=0, le=1, description="of an answer, for data balance")
    least: float = Field(0.3, description="agreement below which data score leaves a row out")
    train: bool = Field(True, description="train; without it only what the commands find is told")


def main(arguments: list[str]) -> int:
    """Make, curate, train, ask and print; returns the exit status."""
    options = CliApp.run(Curation, cli_args=arguments)
    digits = options.work / "digits"
    if not (digits / "test.jsonl").is_file():
        write_digits(digits)
    found: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        folder = options.work / str(seed)
        wrong = bad_set(digits, folder, seed)
        curate(folder, wrong, options)
        for arm in ("raw", "curated") if options.train else ():
            scores = trained(folder, arm, seed, digits, options)
            _print(seed=seed, trained_on=arm, **scores)
            for of, score in scores.items():
                found.setdefault(f"{arm} {of}", []).append(score)
    means = {name: round(statistics.mean(scores), 4) for name, scores in found.items()}
    if means:
        _print(seeds=options.seeds, means=means)
    return 0


def bad_set(digits: Path, folder: Path, seed: int) -> set[str]:
    """Write rows.jsonl and images/ of a bad set; returns the ids of the rows that say a wrong digit."""
    shutil.rmtree(folder, ignore_errors=True)
    images = folder / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    common = str(rng.integers(10))
    rows = _chosen(digits, common, rng)
    # A fifth are copies, of other rows, under other names.
    whole = ROWS - round(COPIES * ROWS)
    for number, place in enumerate(rng.permutation(whole)[: ROWS - whole]):
        rows.append(rows[place] | {"id": f"copy-{number}", "of": rows[place]["image"], "image": f"copy-{number}.png"})
    for row in rows:
        _picture(digits / "images" / row.get("of", row["image"]), images / row["image"], copy="of" in row)
    # A tenth, whichever, say another digit.
    wrong = rng.permutation(len(rows))[: round(WRONG * ROWS)]
    for place in wrong:
        others = [str(digit) for digit in range(10) if str(digit) != rows[place]["answer"]]
        rows[place]["answer"] = others[int(rng.integers(9))]
    order = rng.permutation(len(rows))
    _write(folder / "rows.jsonl", [rows[place] for place in order])
    (folder / "sources.json").write_text(json.dumps({row["image"]: row.get("of", row["image"]) for row in rows}))
    shares = Counter(row["answer"] for row in rows)
    _print(seed=seed, rows=len(rows), wrong=len(wrong), copies=ROWS - whole, most=f"{common}: {shares[common]}")
    return {rows[place]["id"] for place in wrong}


def _chosen(digits: Path, common: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The rows that are no copies: 70% about one digit, every other digit alike; a picture is asked several things."""
    known: dict[str, list[tuple[str, str]]] = {}
    for line in (digits / "train.jsonl").read_text().splitlines():
        row = json.loads(line)
        answer = row["conversations"][1]["value"]
        known.setdefault(answer, []).append((row["image"], row["conversations"][0]["value"].removeprefix("<image>\n")))
    whole = ROWS - round(COPIES * ROWS)
    rest = (whole - round(COMMON * whole)) / 9
    rows: list[dict[str, Any]] = []
    for answer, asked in sorted(known.items()):
        count = round(COMMON * whole) if answer == common else round(rest)
        for place in rng.permutation(len(asked))[:count]:
            image, question = asked[place]
            assert question in ASKS
            rows.append({"id": f"{len(rows)}", "image": image, "question": question, "answer": answer})
    return rows[:whole]


def _picture(source: Path, target: Path, copy: bool) -> None:
    if not copy:
        shutil.copyfile(source, target)
        return
    with Image.open(source) as picture:
        buffer = io.BytesIO()
        ImageEnhance.Contrast(picture.resize((80, 80))).enhance(0.95).save(buffer, "JPEG", quality=80)
    target.write_bytes(buffer.getvalue())


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    kept = ("id", "image", "question", "answer")
    file.write_text("".join(json.dumps({key: row[key] for key in kept}) + "\n" for row in rows))


def curate(folder: Path, wrong: set[str], options: Curation) -> None:
    """Run the commands one behind the other, and tell of each what it left of what is wrong."""
    steps = [
        ("dedupe", []),
        ("score", ["--model", BASE, "--by", "agreement", "--within", "category", "--least", str(options.least)]),
        ("balance", ["--most-share", str(options.most_share)]),
    ]
    file = folder / "rows.jsonl"
    sources = json.loads((folder / "sources.json").read_text())
    for number, (command, more) in enumerate(steps):
        output = folder / ("curated.jsonl" if number == len(steps) - 1 else f"{command}.jsonl")
        paths = ["--data", str(file), "--images", str(folder / "images"), "--output", str(output)]
        index = ["--index", str(options.work / "index")]
        _run(["data", command, *paths, *more, *index])
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        answers = Counter(row["answer"] for row in rows).most_common(1)
        left = {
            "wrong": sum(row["id"] in wrong for row in rows),
            "copies": len(rows) - len({(sources[row["image"]], row["question"]) for row in rows}),
            "most": f"{answers[0][0]}: {answers[0][1]}",
        }
        _print(seed=int(folder.name), after=command, rows=len(rows), **left)
        file = output


def trained(folder: Path, arm: str, seed: int, digits: Path, options: Curation) -> dict[str, float]:
    """Shares of right answers to the clean held-out digits, of the base and of an adapter trained on one set."""
    run = folder / arm
    data = folder / ("rows.jsonl" if arm == "raw" else "curated.jsonl")
    held_out = digits / "test.jsonl"
    shutil.copytree(digits / "images", folder / "images", dirs_exist_ok=True)  # held-out names are relative to --images
    command = ["train", "--name", arm, "--data", str(data), "--images", str(folder / "images"), "--output", str(run)]
    command += ["--eval-data", str(held_out), "--model", BASE, "--store", str(folder / "store"), "--seed", str(seed)]
    command += ["--learning-rate", "3e-3", "--rows-per-step", "64", "--rank", "16", "--epochs", "100"]
    command += ["--max-steps", str(options.updates), "--feature-cache", str(options.work / "index")]
    # Status 2 is an adapter no better than its base, which is measured all the same.
    _run(command, accepted=(0, 2))
    asked = ["evaluate", "--adapter", str(run), "--model", BASE, "--data", str(held_out)]
    told = _run([*asked, "--images", str(digits / "images")])
    summaries = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    rows = int(summaries[-1]["rows"])
    return {of: round(summaries[-1][f"{of}_right"] / rows, 4) for of in ("base", "adapter")}


def _run(arguments: list[str], accepted: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run([sys.executable, "-m", "trainer", *arguments], capture_output=True, text=True, check=False)
    if done.returncode not in accepted:
        raise SystemExit(f"trainer {' '.join(arguments)} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def _print(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
