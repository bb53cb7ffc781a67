"""Is an adapter better than its base? One measure on held-out rows decides, chosen by what the answers are like."""

from collections.abc import Sequence

from service.adapters.manifest import Gate
from trainer.config.fields import Gate as Asked
from trainer.data.row import Row
from trainer.errors import NoGain
from trainer.metrics import METRICS

LOSS = "loss"
# Free text is what few people would write in the same words: where more than a tenth of the answers have more words.
_WORDS, _SHARE = 8, 0.1


def measure_for(asked: Asked, rows: Sequence[Row]) -> str:
    """The measure's name: the one asked for, or by the answers of `rows` the loss or the normalised match."""
    if asked != "auto":
        return asked
    long = sum(len(row.answer.split()) > _WORDS for row in rows)
    return LOSS if long > _SHARE * len(rows) else "normalised"


def weigh(
    measure: str, rows: Sequence[Row], texts: tuple[Sequence[str], Sequence[str]], losses: tuple[float, float]
) -> Gate:
    """What base and adapter come to; `texts` are their answers to `rows`, `losses` theirs, nats a token."""
    if measure == LOSS:
        return Gate(metric=LOSS, base=losses[0], adapter=losses[1])
    means = [
        sum(METRICS[measure](row.answer, answer) for row, answer in zip(rows, said, strict=True)) / len(rows)
        for said in texts
    ]
    return Gate(metric=measure, base=means[0], adapter=means[1])


def check_gain(gate: Gate, rows: int, where: str) -> None:
    """Refuse an adapter that is no better than its base; `where` says where it lies.

    Raises:
        NoGain: it is not.
    """
    if not (gate.adapter < gate.base if gate.metric == LOSS else gate.adapter > gate.base):
        raise NoGain(
            f"on {rows} held-out rows the adapter has {gate.metric} {gate.adapter:.4g}, its base {gate.base:.4g}: no"
            f" better, and not published; {where}; --gate chooses another measure"
        )
