"""Questions told apart, and what yes-no and unanswerable ones come to, against counts done by hand."""

import pytest

from trainer.data.row import Row
from trainer.evaluation.kinds import kind_of, polar, unanswerable


def row(answer: str, question: str = "is it red?") -> Row:
    return Row(answer, None, question, answer, "all")


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (row("Yes"), "yes-no"),
        (row("no."), "yes-no"),
        (row("nothing"), "open"),
        (row("unanswerable"), "unanswerable"),
        (row("iron", "which is a metal?\n(A) iron (B) wood"), "choice"),
        (row("A", "which is a metal?\nA. iron\nB. wood"), "choice"),
        (row("iron", "which is a metal? (A)"), "open"),
    ],
)
def test_a_question_is_of_the_kind_that_its_right_answer_is(found: Row, kind: str) -> None:
    assert kind_of(found) == kind


def test_yes_no_questions_have_the_figures_of_pope() -> None:
    """POPE's evaluate.py on the same answers: TP 2, FP 1, TN 1, FN 1, but for the answer that is neither."""
    rows = [row(answer) for answer in ("yes", "yes", "yes", "no", "no", "no", "red")]
    found = polar(rows, ["Yes.", "yes, it is", "no", "yes", "no", "maybe", "yes"])
    assert found is not None
    yes = found.yes
    assert (yes.rows, yes.positives, yes.said, yes.hits) == (6, 3, 3, 2)
    assert (yes.precision, yes.recall, yes.f1, yes.ratio) == pytest.approx((2 / 3, 2 / 3, 2 / 3, 1 / 2))
    assert (found.accuracy, found.neither) == pytest.approx((1 / 2, 1 / 6))
    assert polar([row("red")], ["yes"]) is None


def test_always_yes_is_told_by_its_ratio() -> None:
    found = polar([row("yes"), row("no")] * 10, ["yes"] * 20)
    assert found is not None
    assert (found.yes.ratio, found.yes.recall, found.yes.precision) == (1, 1, 0.5)
    never = polar([row("yes"), row("no")], ["no", "no"])
    assert never is not None
    assert (never.yes.precision, never.yes.recall, never.yes.f1) == (0, 0, 0)


def test_unanswerable_questions_are_told_from_all_others() -> None:
    rows = [row("unanswerable"), row("unanswerable"), row("red"), row("yes")]
    found = unanswerable(rows, ["unanswerable", "red", "Unanswerable.", "yes"])
    assert found is not None
    assert (found.precision, found.recall, found.f1) == (0.5, 0.5, 0.5)
    assert unanswerable(rows[2:], ["red", "yes"]) is None
