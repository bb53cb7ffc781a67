"""Every row asked of a base checkpoint and of adapters in this process: no service, no engine."""

import time
from collections.abc import Sequence
from dataclasses import replace

from service.calibration import Calibration
from service.checkpoint import locate
from trainer.adapter.find import find
from trainer.adapter.local import LocalAdapter
from trainer.config.evaluation import EvaluateOptions
from trainer.data.row import Row
from trainer.evaluation.generate import Prediction, longest_answer, predict
from trainer.evaluation.result import Evaluation, ModelAnswer, Source
from trainer.evaluation.through import control, through
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import Sight
from trainer.model.precision import has_bfloat16


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
        beams: _said(predict(checkpoint, checkpoint.model, rows, states, "base answers", tokens, beams))
        for beams in options.beams
    }
    evaluations = []
    for adapter in adapters:
        seen, calibration = adapter.trained_on(states.digests), adapter.calibration()
        for beams in options.beams:
            began = time.monotonic()
            found = _through(adapter, checkpoint, rows, states, tokens, beams)
            seconds = time.monotonic() - began
            given = (source, adapter.name, rows, base[beams], _calibrated(found, calibration))
            evaluation = Evaluation.of(*given, seen, adapter.origin, options.seed, beams, seconds)
            drawn = options.blind_rows, options.seed
            blind = control(adapter, checkpoint, rows, evaluation.answers, *drawn, tokens, beams)
            evaluations.append(replace(evaluation, blind=blind))
    return evaluations


def ask_adapter(
    model: str, adapter: LocalAdapter, rows: Sequence[Row], max_tokens: int | None
) -> tuple[list[ModelAnswer], str]:
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
) -> list[ModelAnswer]:
    return _said(through(adapter, checkpoint, rows, states, f"{adapter.name} answers", tokens, beams))


def _calibrated(said: list[ModelAnswer], calibration: Calibration | None) -> list[ModelAnswer]:
    """The same answers with what the `calibration`, where there is one, makes of their confidence."""
    if calibration is None:
        return said
    return [
        each if each.confidence is None else replace(each, calibrated=calibration(each.confidence)) for each in said
    ]


def _said(predictions: Sequence[Prediction]) -> list[ModelAnswer]:
    return [ModelAnswer(prediction.text, prediction.confidence) for prediction in predictions]
