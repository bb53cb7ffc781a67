"""Rows asked in process through an adapter, and asked again without their images, to tell whether it looks at them."""

from collections.abc import Sequence

from trainer.adapter.local import LocalAdapter
from trainer.data.row import Row
from trainer.evaluation.blind import Blind, NotAsked, blind_control, blind_places, why_none
from trainer.evaluation.generate import Prediction, predict
from trainer.model.checkpoint import Checkpoint
from trainer.model.forest import Sight
from trainer.model.sight import Grey


def through(
    adapter: LocalAdapter,
    checkpoint: Checkpoint,
    rows: Sequence[Row],
    sight: Sight | None,
    label: str,
    tokens: int,
    beams: int = 1,
) -> list[Prediction]:
    """The adapter's answers to `rows`, in their order, each of at most `tokens` tokens.

    Of a mixture each member answers its own rows. `label` names the progress bar. Of several processes all have to call
    this with the same rows, and each gets all answers.
    """
    found = dict[int, Prediction]()
    for member, places in adapter.by_member(rows).items():
        with adapter.applied_to(checkpoint.model, member) as llava:
            part = [rows[place] for place in places]
            found |= zip(places, predict(checkpoint, llava, part, sight, label, tokens, beams), strict=True)
    return [found[place] for place in range(len(rows))]


def control(
    adapter: LocalAdapter,
    checkpoint: Checkpoint,
    rows: Sequence[Row],
    answers: Sequence[str],
    most: int,
    seed: int,
    tokens: int,
    beams: int = 1,
) -> Blind | NotAsked:
    """Whether an adapter looks: at most `most` of `rows`, drawn by `seed`, asked with a grey picture for each image.

    `answers` are what it said to all `rows` with their images. Of several processes all have to call this, and each
    gets the same.
    """
    places = blind_places(rows, most, seed)
    if not places:
        return why_none(most)
    part = [rows[place] for place in places]
    hidden = through(adapter, checkpoint, part, Grey(checkpoint), f"{adapter.name} without images", tokens, beams)
    return blind_control(part, [answers[place] for place in places], [each.text for each in hidden], seed)
