"""Base and adapter on the same held-out rows: what each answers, its loss, and which is better by the measure."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from service.adapters.manifest import Gate, Score
from trainer.adapter.local import LocalAdapter
from trainer.config.fields import Gate as Asked
from trainer.data.row import Row
from trainer.evaluation.gate import LOSS, measure_for, weigh
from trainer.evaluation.generate import Prediction, longest_answer, predict
from trainer.evaluation.result import Evaluation, Source
from trainer.evaluation.score import by_category, score
from trainer.model.checkpoint import Checkpoint
from trainer.model.forest import Sight, collate, grow, pack
from trainer.model.forward import loss_sum
from trainer.model.tokens import encode
from trainer.processes import gathered, mine

log = logging.getLogger(__name__)

# Tokens of a forward pass.
_TOKENS = 4096


@dataclass(frozen=True)
class Trial:
    """Answers of base and adapter in the order of `rows`, and the measure that decides."""

    rows: tuple[Row, ...]
    base: tuple[Prediction, ...]
    adapter: tuple[Prediction, ...]
    gate: Gate

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

    def evaluation(self, source: Source, adapter: str) -> Evaluation:
        """This trial as a report shows it."""
        return Evaluation(source, adapter, self.rows, *self.texts)


def compare(
    candidate: LocalAdapter,
    checkpoint: Checkpoint,
    rows: Sequence[Row],
    sight: Sight | None,
    gate: Asked,
    max_tokens: int | None,
) -> Trial:
    """Ask `rows` of the base and through the `candidate`, in answers of at most `max_tokens`, by default the longest.

    What decides is `gate`, or with "auto" what fits the rows; both are logged.
    """
    asked, tokens = list(rows), max_tokens or longest_answer(checkpoint.prompt, rows)
    measure = measure_for(gate, asked)
    log.info("asking %d held-out rows in up to %d tokens; %s decides", len(asked), tokens, measure)

    def answers(label: str) -> tuple[tuple[Prediction, ...], float]:
        said = predict(checkpoint, checkpoint.model, asked, sight, f"{label} answers", tokens)
        return tuple(said), mean_loss(checkpoint, asked, sight) if measure == LOSS else 0.0

    base, base_loss = answers("base")
    with candidate.applied_to(checkpoint.model):  # the same modules, which answer through the adapter within
        adapter, adapter_loss = answers("adapter")
    texts = [said.text for said in base], [said.text for said in adapter]
    found = Trial(tuple(asked), base, adapter, weigh(measure, asked, texts, (base_loss, adapter_loss)))
    right = found.score
    log.info("held out: base %d, adapter %d of %d right", right.base, right.adapter, right.rows)
    return found


def mean_loss(checkpoint: Checkpoint, rows: Sequence[Row], sight: Sight | None) -> float:
    """Cross-entropy of the right answers to `rows`, in nats a token, the end of an answer among them.

    Of several processes each counts its share, and all have to call this.
    """
    share = mine(rows)
    trees = grow(encode(share, checkpoint.prompt, checkpoint.sight[0], last=True), 1)
    total, count = 0.0, 0
    with torch.inference_mode(), checkpoint.precision():
        for forest in pack(trees.lengths.tolist() if share else [], _TOKENS, 2.0 * checkpoint.hidden_size):
            batch = collate(trees, forest, sight).to(checkpoint.model.device)
            total += float(loss_sum(checkpoint.model, batch))
            count += len(batch.labels)
    sums = gathered([(total, count)])
    return sum(total for total, _ in sums) / sum(count for _, count in sums)
