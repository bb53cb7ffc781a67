"""Every row asked of a base checkpoint and of adapters in this process: no service, no engine."""

from collections.abc import Sequence
from typing import Any

from service.checkpoint import locate
from trainer.adapter.find import find
from trainer.config.evaluation import EvaluateOptions
from trainer.data.row import Row
from trainer.evaluation.generate import longest_answer, predict
from trainer.evaluation.result import Evaluation, Source
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.precision import has_bfloat16


def ask_checkpoint(model: str, options: EvaluateOptions, rows: Sequence[Row]) -> list[Evaluation]:
    """What the base `model` answers to `rows` by itself, once, and through each adapter.

    Raises:
        DataError: images that do not decode.
        OptionError: an adapter that is neither in the store nor a directory of one.
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

    def answers(asked: Sequence[Row], llava: Any, label: str) -> dict[int, list[str]]:
        return {
            beams: [said.text for said in predict(checkpoint, llava, asked, states, f"{label} answers", tokens, beams)]
            for beams in options.beams
        }

    source = Source(model, checkpoint.base.id, checkpoint.base.precision)
    base = answers(rows, checkpoint.model, "base")
    evaluations = []
    for adapter in adapters:
        texts = {beams: [""] * len(rows) for beams in options.beams}
        for member, places in adapter.by_member(rows).items():
            with adapter.applied_to(checkpoint.model, member) as llava:
                said = answers([rows[place] for place in places], llava, adapter.name)
            for beams, found in said.items():
                for place, text in zip(places, found, strict=True):
                    texts[beams][place] = text
        seen = adapter.trained_on(states.digests)
        evaluations += [
            Evaluation(
                *(source, adapter.name, tuple(rows), tuple(base[beams]), tuple(found), seen, adapter.origin),
                options.seed,
                beams,
            )
            for beams, found in texts.items()
        ]
    return evaluations
