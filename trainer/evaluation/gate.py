"""Is an adapter better than its base? One measure on held-out rows decides, chosen by what the answers are like."""

from collections.abc import Sequence

from service.adapters.manifest import Gate
from trainer.config.fields import Gate as GateOption
from trainer.data.row import Row
from trainer.errors import NoGain, OptionError
from trainer.evaluation.score import VQA, mark
from trainer.metrics import METRICS

LOSS, PREFERENCE = "loss", "preference"
# Rows are taken for free text, which few people would write in the same words, where more than this share of the right
# answers has more than so many words.
_WORDS, _SHARE = 8, 0.1


def measure_for(option: GateOption, rows: Sequence[Row]) -> str:
    """The measure's name: that of the option, or with "auto" by `rows` preference, loss or normalised match.

    Raises:
        OptionError: the option is preference, and no row is a pair.
    """
    pairs = any(row.rejected is not None for row in rows)
    if option == PREFERENCE and not pairs:
        raise OptionError(f"--gate {PREFERENCE}: no held-out row is a pair of answers: choose another measure")
    if option != "auto":
        return option
    return PREFERENCE if pairs else _by_answers(rows)


def _by_answers(rows: Sequence[Row]) -> str:
    long = sum(len(row.answer.split()) > _WORDS for row in rows)
    return LOSS if long > _SHARE * len(rows) else "normalised"


def weigh(
    measure: str, rows: Sequence[Row], texts: tuple[Sequence[str], Sequence[str]], found: tuple[float, float]
) -> Gate:
    """The measure of base and adapter: the mean metric of their answers `texts` to `rows`, or `found`.

    `found` are both losses in nats a token, or both shares of pairs, where that is the measure.
    """
    if measure not in (*METRICS, VQA):
        return Gate(metric=measure, base=found[0], adapter=found[1])
    base, adapter = (_mean(measure, rows, said) for said in texts)
    return Gate(metric=measure, base=base, adapter=adapter)


def _mean(metric: str, rows: Sequence[Row], said: Sequence[str]) -> float:
    return sum(mark(metric, row, answer) for row, answer in zip(rows, said, strict=True)) / len(rows)


def check_gain(gate: Gate, rows: int, where: str, more: str = "") -> None:
    """Refuse an adapter that is no better than its base; `where` says where it lies, `more` what may make it better.

    Raises:
        NoGain: it is not.
    """
    if not (gate.adapter < gate.base if gate.metric == LOSS else gate.adapter > gate.base):
        raise NoGain(
            f"on {rows} held-out rows the adapter has {gate.metric} {gate.adapter:.4g}, its base {gate.base:.4g}: no"
            f" better, and not published; {where}; {f'{more}; ' if more else ''}--gate chooses another measure"
        )


def check_no_worse(gate: Gate, rows: int, where: str) -> None:
    """Refuse an adapter that is worse than the one its training went on from, whose measure is the gate's `base`.

    Raises:
        NoGain: it is.
    """
    if gate.adapter > gate.base if gate.metric == LOSS else gate.adapter < gate.base:
        raise NoGain(
            f"on {rows} held-out rows the adapter has {gate.metric} {gate.adapter:.4g}, the one of --init-adapter"
            f" {gate.base:.4g}: worse than where it began, and not published; {where}; a lower --learning-rate keeps it"
            " closer to what it was; --gate chooses another measure"
        )


def check_answers(
    rows: Sequence[Row], texts: tuple[Sequence[str], Sequence[str]], where: str, whose: str = "its base's"
) -> None:
    """Refuse an adapter that finds the chosen answers likelier and gives worse ones itself.

    What answers are measured by is their match with the chosen ones, or where those are free text their words in
    common (f1): the loss of chosen answers may well rise where rejected ones fall further.

    Raises:
        NoGain: its answers, the second of `texts`, are worse than the first, the base's or those that `whose` says.
    """
    metric = "f1" if _by_answers(rows) == LOSS else "normalised"
    base, adapter = (_mean(metric, rows, said) for said in texts)
    if adapter < base:
        raise NoGain(
            f"on {len(rows)} held-out rows the adapter's own answers have {metric} {adapter:.4g}, {whose}"
            f" {base:.4g}: worse, and not published; {where}; a lower --learning-rate, a higher --beta or --sft-weight"
            " keeps it closer to what it was"
        )
