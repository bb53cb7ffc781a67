"""Every row asked of a base checkpoint and of adapters in this process: no service, no engine."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from service.calibration import Calibration
from service.checkpoint import locate
from trainer.adapter.find import find
from trainer.adapter.local import LocalAdapter
from trainer.config.evaluation import EvaluateOptions
from trainer.data.row import Row
from trainer.evaluation.blind import Blind, blind_control, blind_places
from trainer.evaluation.generate import longest_answer, predict
from trainer.evaluation.result import Evaluation, Said, Source
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import Sight
from trainer.model.precision import has_bfloat16
from trainer.model.sight import Grey


def ask_checkpoint(model: str, options: EvaluateOptions, rows: Sequence[Row]) -> list[Evaluation]:
    """What the base `model` answers to `rows` by itself, once, and through each adapter.

    Raises:
        DataError: images that do not decode.
        OptionError: an adapter that is neither in the store nor a directory of one, or whose calibration is broken.
        AdapterRefused: one that does not fit the base; the service would refuse it too.
        FileNotFoundError: the model is not a LLaVA checkpoint.
    """
    adapters = [find(name, options.store) for name in options.adapter]
    path = locate(model)
    for adapter in adapters:
        adapter.check_fits(path)
    checkpoint = Checkpoint.load(path, bfloat16=has_bfloat16())
    states = States.of(checkpoint, rows)
    tokens = options.max_tokens or longest_answer(checkpoint.prompt, rows)

    source = Source(model, checkpoint.base.id, checkpoint.base.precision)
    base = {
        beams: _answers(checkpoint, checkpoint.model, rows, states, "base", tokens, beams) for beams in options.beams
    }
    evaluations = []
    for adapter in adapters:
        seen, calibration = adapter.trained_on(states.digests), adapter.calibration()
        for beams in options.beams:
            found = _calibrated(_through(adapter, checkpoint, rows, states, tokens, beams), calibration)
            given = (source, adapter.name, rows, base[beams], found)
            evaluation = Evaluation.of(*given, seen, adapter.origin, options.seed, beams)
            blind = _blind(adapter, checkpoint, evaluation, options.blind_rows, tokens)
            evaluations.append(replace(evaluation, blind=blind))
    return evaluations


def _blind(
    adapter: LocalAdapter, checkpoint: Checkpoint, evaluation: Evaluation, most: int, tokens: int
) -> Blind | None:
    """The control without images on at most `most` of the rows; None where none has an image, or `most` is 0."""
    places = blind_places(evaluation.rows, most, evaluation.seed)
    if not places:
        return None
    rows = [evaluation.rows[place] for place in places]
    hidden = _through(adapter, checkpoint, rows, Grey(checkpoint), tokens, evaluation.beams)
    shown = [evaluation.answers[place] for place in places]
    return blind_control(rows, shown, [each.text for each in hidden], evaluation.seed)


def ask_adapter(
    model: str, adapter: LocalAdapter, rows: Sequence[Row], max_tokens: int | None
) -> tuple[list[Said], str]:
    """What an adapter on the base `model` answers to `rows`, and that base's precision.

    Raises:
        DataError, AdapterRefused, FileNotFoundError: as `ask_checkpoint`.
    """
    path = locate(model)
    adapter.check_fits(path)
    checkpoint = Checkpoint.load(path, bfloat16=has_bfloat16())
    tokens = max_tokens or longest_answer(checkpoint.prompt, rows)
    return _through(adapter, checkpoint, rows, States.of(checkpoint, rows), tokens), checkpoint.base.precision


def _through(
    adapter: LocalAdapter, checkpoint: Checkpoint, rows: Sequence[Row], states: Sight, tokens: int, beams: int = 1
) -> list[Said]:
    """The adapter's answers in the order of `rows`; of a mixture each member answers its own."""
    found = [Said("")] * len(rows)
    for member, places in adapter.by_member(rows).items():
        with adapter.applied_to(checkpoint.model, member) as llava:
            said = _answers(checkpoint, llava, [rows[place] for place in places], states, adapter.name, tokens, beams)
        for place, answer in zip(places, said, strict=True):
            found[place] = answer
    return found


def _calibrated(said: list[Said], calibration: Calibration | None) -> list[Said]:
    """The same answers with what the `calibration`, where there is one, makes of their confidence."""
    if calibration is None:
        return said
    return [
        each if each.confidence is None else replace(each, calibrated=calibration(each.confidence)) for each in said
    ]


def _answers(
    checkpoint: Checkpoint, llava: Any, rows: Sequence[Row], states: Sight, label: str, tokens: int, beams: int = 1
) -> list[Said]:
    said = predict(checkpoint, llava, rows, states, f"{label} answers", tokens, beams)
    return [Said(prediction.text, prediction.confidence) for prediction in said]
