"""Base and adapter on the same held-out rows: what each answers, its loss, and which is better by the measure."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from service.adapters.manifest import Gate, Score
from service.calibration import Calibration
from trainer.adapter.local import LocalAdapter
from trainer.config.fields import Gate as GateOption
from trainer.data.row import Row
from trainer.errors import OptionError
from trainer.evaluation.blind import Blind, NotAsked, warn
from trainer.evaluation.calibration import calibrate
from trainer.evaluation.gate import LOSS, PREFERENCE, check_answers, check_gain, check_no_worse, measure_for, weigh
from trainer.evaluation.generate import Prediction, longest_answer, predict
from trainer.evaluation.result import Evaluation, ModelAnswer, Source
from trainer.evaluation.score import by_category, score
from trainer.evaluation.through import control
from trainer.model.checkpoint import Checkpoint
from trainer.model.forest import Batch, Sight, Trees, collate, grow, pack
from trainer.model.forward import log_probs, loss_sum
from trainer.model.pairs import Owners
from trainer.model.tokens import Form, encode
from trainer.processes import gathered, own_share

log = logging.getLogger(__name__)

# Tokens of a forward pass.
_TOKENS = 4096


@dataclass(frozen=True)
class Trial:
    """Answers of base and adapter in the order of `rows`, the measure that decides, and the control without images.

    `begun` is the same with the adapter that training went on from in place of the base, where there is one.
    """

    rows: tuple[Row, ...]
    base: tuple[Prediction, ...]
    adapter: tuple[Prediction, ...]
    gate: Gate
    blind: Blind | NotAsked
    begun: "Trial | None" = None

    @property
    def texts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The answers' texts, the base's first."""
        return tuple(said.text for said in self.base), tuple(said.text for said in self.adapter)

    @property
    def score(self) -> Score:
        """Right answers, by normalised match."""
        return score(self.rows, *self.texts)

    @property
    def categories(self) -> dict[str, Score]:
        """`score` by category."""
        return by_category(self.rows, *self.texts)

    def check(self, where: str, more: str = "") -> None:
        """Refuse an adapter that is no better than its base, or worse than it began; `where` says where it lies.

        `more` says what may make it better than the base.

        Raises:
            NoGain: it is so by the measure, or of pairs its own answers are worse than the other's.
        """
        check_gain(self.gate, len(self.rows), where, more)
        if self.gate.metric == PREFERENCE:
            check_answers(self.rows, self.texts, where)
        if self.begun is not None:
            check_no_worse(self.begun.gate, len(self.rows), where)
            if self.gate.metric == PREFERENCE:
                check_answers(self.rows, self.begun.texts, where, "those of --init-adapter")

    def calibration(self, precision: str) -> Calibration | None:
        """The calibration of the adapter's confidences by these rows; None where they are too few, which is logged."""
        said = [ModelAnswer(each.text, each.confidence) for each in self.adapter]
        try:
            return calibrate(self.rows, said, precision)
        except OptionError as error:
            log.info("published without a calibration: %s", error)
            return None

    def evaluation(self, source: Source, adapter: str) -> Evaluation:
        """The trial's scores and answers in the form that reports take."""
        base, said = ([ModelAnswer(each.text, each.confidence) for each in who] for who in (self.base, self.adapter))
        return replace(Evaluation.of(source, adapter, self.rows, base, said), blind=self.blind)


def compare(
    candidate: LocalAdapter,
    checkpoint: Checkpoint,
    rows: Sequence[Row],
    sight: Sight | None,
    gate: GateOption,
    max_tokens: int | None,
    blind_rows: int,
    seed: int = 0,
    begun: LocalAdapter | None = None,
) -> Trial:
    """Ask `rows` of the base and through the `candidate`, in answers of at most `max_tokens`, by default the longest.

    What decides is `gate`, or with "auto" what fits the rows; both are logged. Of the rows at most `blind_rows`, drawn
    by `seed`, are asked through the candidate again without their images; a warning says where that changes nothing.
    The adapter that training has `begun` from is asked too, where there is one.

    Raises:
        OptionError: `gate` is preference, and no row is a pair.
    """
    asked, tokens = list(rows), max_tokens or longest_answer(checkpoint.prompt, rows)
    measure = measure_for(gate, asked)
    judge = {LOSS: answer_loss, PREFERENCE: preferred}.get(measure)
    log.info("asking %d held-out rows in up to %d tokens; %s decides", len(asked), tokens, measure)

    def answers(places: Sequence[int], label: str) -> tuple[list[Prediction], Sum]:
        part = [asked[place] for place in places]
        said = predict(checkpoint, checkpoint.model, part, sight, f"{label} answers", tokens)
        return said, judge(checkpoint, part, sight) if judge else Sum()

    def through(adapter: LocalAdapter, label: str) -> tuple[list[Prediction], Sum]:
        found, total = dict[int, Prediction](), Sum()
        for member, places in adapter.by_member(asked).items():
            with adapter.applied_to(checkpoint.model, member):  # within, the same modules answer through it
                said, more = answers(places, f"{label} {member}".rstrip())
            found |= dict(zip(places, said, strict=True))
            total = total + more
        return [found[place] for place in range(len(asked))], total

    base = answers(range(len(asked)), "base")
    parent = through(begun, "--init-adapter") if begun else None
    adapter, adapter_sum = through(candidate, "adapter")
    blind = control(candidate, checkpoint, asked, [each.text for each in adapter], blind_rows, seed, tokens)
    warn(candidate.name, blind)

    def against(other: list[Prediction], total: Sum, began: Trial | None = None) -> Trial:
        texts = [each.text for each in other], [each.text for each in adapter]
        gate = weigh(measure, asked, texts, (total.mean, adapter_sum.mean))
        return Trial(tuple(asked), tuple(other), tuple(adapter), gate, blind, began)

    trial = against(*base, against(*parent) if parent else None)
    right = trial.score
    log.info("held out: base %d, adapter %d of %d right", right.base, right.adapter, right.rows)
    if trial.begun:
        log.info("held out: --init-adapter %d of %d right", trial.begun.score.base, right.rows)
    return trial


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum over rows and its count: nats over tokens, or pairs whose chosen answer is likelier over pairs."""

    total: float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        """The sum over the count: nats a token, or a share of pairs; 0.0 where the count is 0."""
        return self.total / max(self.count, 1)

    def __add__(self, other: "Sum") -> "Sum":
        return Sum(self.total + other.total, self.count + other.count)


def answer_loss(checkpoint: Checkpoint, rows: Sequence[Row], sight: Sight | None) -> Sum:
    """Cross-entropy of the right answers to `rows` in nats, and their tokens, the end of an answer among them.

    Of several processes each counts its share, and all have to call this.
    """
    total, count = 0.0, 0
    trees = _trees(checkpoint, rows, "asked")
    with torch.inference_mode(), checkpoint.precision():
        for batch in _batches(checkpoint, trees, sight):
            total += float(loss_sum(checkpoint.model, batch))
            count += len(batch.labels)
    sums = gathered([(total, count)])
    return Sum(sum(total for total, _ in sums), sum(count for _, count in sums))


def preferred(checkpoint: Checkpoint, rows: Sequence[Row], sight: Sight | None) -> Sum:
    """How many pairs' chosen answer, its end among it, is likelier than the rejected one, and how many pairs there are.

    Of several processes each counts its share, and all have to call this.
    """
    won = count = 0
    trees = _trees(checkpoint, [row for row in rows if row.rejected is not None], "paired")
    owners = Owners(trees.tokens, checkpoint.model.device)
    with torch.inference_mode(), checkpoint.precision():
        for batch in _batches(checkpoint, trees, sight):
            said = owners.likelihoods(log_probs(checkpoint.model, batch), batch.numbers)
            chosen, rejected = said.log_probs.unbind(1)
            won, count = won + int((chosen > rejected).sum()), count + len(chosen)
    sums = gathered([(won, count)])
    return Sum(sum(won for won, _ in sums), sum(count for _, count in sums))


def _trees(checkpoint: Checkpoint, rows: Sequence[Row], form: Form) -> Trees:
    """This process's share of the rows, each a tree."""
    return grow(encode(own_share(rows), checkpoint.prompt, checkpoint.image_shape[0], form=form, last=True), 1)


def _batches(checkpoint: Checkpoint, trees: Trees, sight: Sight | None) -> Iterator[Batch]:
    lengths = trees.lengths.tolist() if len(trees.tokens) else []
    for forest in pack(lengths, _TOKENS, 2.0 * checkpoint.hidden_size):
        yield collate(trees, forest, sight).to(checkpoint.model.device)
