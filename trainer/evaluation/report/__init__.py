"""What an evaluation found, as one HTML page that needs nothing else: tables, pictures and worst errors within.

All text of rows and answers is escaped by the template, and the page forbids itself scripts and the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.data import files
from trainer.data.pages.pictures import Picture, curve, thumbnail
from trainer.data.pages.template import render
from trainer.data.row import Row
from trainer.evaluation.confidence import RISKS
from trainer.evaluation.report.confusion import Confusion, confusion
from trainer.evaluation.report.sureness import pictured
from trainer.evaluation.result import MAIN_METRIC, Evaluation
from trainer.evaluation.score import ALL, VQA, Measure, right
from trainer.metrics import anls

WORST = 24
# What a run keeps its losses in.
LOG = "log.jsonl"


@dataclass(frozen=True, slots=True)
class Mistake:
    """A row that the adapter has wrong; `lost` where the base has it right."""

    row: Row
    base: str
    answer: str
    lost: bool
    image: Picture | None


@dataclass(frozen=True, slots=True)
class Section:
    """What the page shows of one evaluation; `metrics` has the main metric first.

    `kinds` has for each kind of question, where there are several, the measures that it is judged by.
    """

    evaluation: Evaluation
    metrics: dict[str, list[Measure]]
    kinds: list[Measure]
    curve: Picture | None
    sureness: Picture | None
    confusions: dict[str, Confusion | None]
    wrong: int
    mistakes: list[Mistake]


def write_report(url: str, evaluations: Sequence[Evaluation]) -> None:
    """Write the page to a path or URL.

    Raises:
        DataError: it cannot be written, or a row's image not be read.
    """
    files.write(url, page(evaluations).encode())


def page(evaluations: Sequence[Evaluation]) -> str:
    """The whole page as HTML text."""
    return render("page.html", sections=[_section(each) for each in evaluations], risks=RISKS)


def _section(evaluation: Evaluation) -> Section:
    metrics: dict[str, list[Measure]] = {MAIN_METRIC: []}
    for found in evaluation.measures:
        metrics.setdefault(found.metric, []).append(found)
    expected = [row.answer for row in evaluation.rows]
    wrong = _wrong(evaluation)
    return Section(
        evaluation,
        metrics,
        _kinds(evaluation),
        curve(evaluation.run / LOG) if evaluation.run else None,
        pictured(evaluation.sureness),
        {"adapter": confusion(expected, evaluation.answers), "base": confusion(expected, evaluation.base)},
        len(wrong),
        [_mistake(evaluation, index) for index in wrong[:WORST]],
    )


def _kinds(evaluation: Evaluation) -> list[Measure]:
    """Closed questions by the main metric, open ones by F1 of words too; nothing where all are of one kind."""
    found = [each for each in evaluation.kinds if each.category != ALL]
    if len({each.category for each in found}) < 2:
        return []
    return [
        each for each in found if each.metric == MAIN_METRIC or (each.category == "open" and each.metric in ("f1", VQA))
    ]


def _wrong(evaluation: Evaluation) -> list[int]:
    """Rows that the adapter has wrong, worst first: those that the base has right, then the furthest off."""
    rows, base, answers = evaluation.rows, evaluation.base, evaluation.answers
    wrong = [index for index, row in enumerate(rows) if not right(row, answers[index])]
    return sorted(wrong, key=lambda i: (not right(rows[i], base[i]), anls(rows[i].answer, answers[i])))


def _mistake(evaluation: Evaluation, index: int) -> Mistake:
    row, base = evaluation.rows[index], evaluation.base[index]
    image = thumbnail(row.image) if row.image else None
    return Mistake(row, base, evaluation.answers[index], right(row, base), image)
