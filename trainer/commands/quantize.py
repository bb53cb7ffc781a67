"""`trainer quantize`: a bf16 base -> its W4A16 copy, and what that cost on rows kept apart."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from service.adapters.base import Base
from service.images import Preparation
from service.memory import GIB, available
from trainer.config.checkpoints import QuantizeOptions
from trainer.data.files import read
from trainer.data.forms.reading import Reading
from trainer.data.index import DEFAULT
from trainer.data.row import Row, per_question
from trainer.data.split import read_sides
from trainer.evaluation.generate import predict
from trainer.evaluation.result import Evaluation, Source
from trainer.model.checkpoint import Checkpoint
from trainer.model.checkpoint_files import begin_copy
from trainer.model.features import States
from trainer.model.pictures import prepared
from trainer.model.precision import has_bfloat16
from trainer.model.quantize import Sample, write_int4
from trainer.training.meter import peak_bytes

log = logging.getLogger(__name__)
# The most rows kept apart that the loss is counted on: each takes two passes, and at 7B 10 MB for both models' states.
_COUNTED = 256


def quantize(options: QuantizeOptions) -> Evaluation | None:
    """Write the W4A16 copy, print its loss on rows that it was not fitted to, and compare the answers of both to these.

    Answers are compared where memory holds the whole models; else returns None.

    Raises:
        TrainerError: faulty rows or options.
        FileNotFoundError: `options.model` is no LLaVA checkpoint.
    """
    packed = "packed weights are not packed again: name the checkpoint it was packed from"
    source = begin_copy(options.model, options.output, packed, share=0.5)  # linears take 0.27, all else stays
    rows: Sequence[Row] = []
    held_out: Sequence[Row] = []
    if options.data:
        given = [(options.data, options.images or "")], None, options.holdout, options.seed, DEFAULT
        sides = read_sides(*given, Reading.of(options))
        rows, held_out = sides.train, sides.held_out
    fitted = _samples(rows, source, options.samples) if options.fit else []
    loss = write_int4(source, options.output, fitted, options.group_size, _samples(held_out, source, _COUNTED))
    if loss is not None:
        peak = round(peak_bytes() / 1e9, 2)
        print(json.dumps({"packed": options.output.name, "peak_gb": peak, **loss.summary()}), flush=True)
    return _cost(source, per_question(held_out), options) if held_out and _fits(source) else None


def _samples(rows: Sequence[Row], source: Path, count: int) -> list[Sample]:
    """At most `count` questions of the rows, at even steps, text rows among them as they lie."""
    preparation = Preparation.of_checkpoint(source)
    chosen = _evenly(per_question(_evenly(rows, count)), count)
    return [
        Sample(
            prepared(read(row.image), row.place or row.id, row.image, preparation) if row.image else None,
            row.question,
            row.answer,
        )
        for row in chosen
    ]


def _evenly(rows: Sequence[Row], count: int) -> Sequence[Row]:
    """At most `count` of the rows, at even steps."""
    return [rows[number * len(rows) // count] for number in range(count)] if len(rows) > count else rows


def _fits(source: Path) -> bool:
    """Whether both models may be asked, one after the other: whole and in float32, which the trainer answers in."""
    needed = 2 * sum(file.stat().st_size for file in source.glob("*.safetensors")) + GIB
    if fits := needed < (free := available()):
        return fits
    log.info(
        "the rows kept apart are not asked: the whole model takes %.1f GiB and %.1f are free; the loss above was "
        "counted layer by layer", needed / GIB, free / GIB,
    )  # fmt: skip
    return False


def _cost(source: Path, rows: list[Row], options: QuantizeOptions) -> Evaluation:
    """The copy's answers to `rows` beside its source's, as an adapter's beside its base's."""
    before, after = (_answers(path, rows) for path in (source, options.output))
    base = Base.of_checkpoint(source)
    place = Source(options.model, base.id, base.precision)
    return Evaluation(place, options.output.name, tuple(rows), before, after, seed=options.seed)


def _answers(path: Path, rows: list[Row]) -> tuple[str, ...]:
    checkpoint = Checkpoint.load(path, bfloat16=has_bfloat16())
    answers = predict(checkpoint, checkpoint.model, rows, States.of(checkpoint, rows), f"{path.name} answers")
    return tuple(answer.text for answer in answers)
