"""ScienceQA: problems.json, an object of questions with choices by id; images lie as SPLIT/ID/image.png."""

from collections.abc import Iterator
from typing import Any

from trainer.data.config import ImportOptions
from trainer.data.importers.source import read_json

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def records(options: ImportOptions) -> Iterator[tuple[str, Any]]:
    """Hint, question and lettered choices become the question, the right choice's text the answer."""
    for id_, problem in read_json(options.source, dict, "an object of problems by id").items():
        yield f"problem {id_}", _record(id_, problem) if isinstance(problem, dict) else problem


def _record(id_: str, problem: dict[str, Any]) -> dict[str, Any]:
    choices, answer = problem.get("choices"), problem.get("answer")
    choices = [str(choice) for choice in choices[: len(LETTERS)]] if isinstance(choices, list) else []
    right = choices[answer] if isinstance(answer, int) and 0 <= answer < len(choices) else None
    lettered = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    parts = [problem.get("hint"), problem.get("question"), lettered]
    record = {
        "id": id_,
        "category": str(problem.get("subject") or "all"),
        "question": "\n".join(part.strip() for part in parts if isinstance(part, str) and part.strip()),
        "answer": right,
    }
    if problem.get("image"):
        record["image"] = f"{problem.get('split')}/{id_}/{problem['image']}"
    return record
