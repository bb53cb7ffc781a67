"""Rows -> what the loop trains on: token trees, and the frozen tower's states of their images."""

from collections.abc import Mapping, Sequence
from itertools import chain

from trainer.config import LoopOptions
from trainer.data.rows import Row
from trainer.forest import IMAGES, grow
from trainer.loop import Lessons
from trainer.model import Checkpoint
from trainer.states import sight_of
from trainer.tokens import Form, encode

# Tokens of a forest where neither the options nor the device's memory say.
TOKENS = 8192


def prepare(
    checkpoint: Checkpoint,
    rows: Sequence[Row],
    held_out: Sequence[Row],
    digests: Mapping[str, str],
    options: LoopOptions,
    form: Form = "asked",
) -> Lessons:
    """What `fit` takes; `digests` has the SHA-256 of every image's bytes, in hex.

    Raises:
        DataError: rows that are too long for the base, or images that cannot be read or decoded.
        OptionError: options that do not fit the rows, or no room for the features.
    """
    cache = None if options.no_feature_cache else options.feature_cache
    budget = int(options.feature_cache_gb * 1e9) if options.feature_cache_gb else None
    tokens = options.tokens or TOKENS
    trees, unseen = (
        grow(
            encode(part, checkpoint.prompt, checkpoint.sight[0], checkpoint.context, form),
            most_branches(options),
            tokens,
        )
        for part in (rows, held_out)
    )
    sight = sight_of(checkpoint, chain(rows, held_out), cache, budget, digests)
    # Per layer a token's products with its weights take about 12 x size^2, those with the tokens it sees 2 x size each.
    bend = 2.0 * checkpoint.hidden_size
    return Lessons(trees, unseen, sight, tokens, bend)


def most_branches(options: LoopOptions) -> int:
    """Rows about one image that share its tokens, so that an update sees about IMAGES images at least."""
    return -(-options.rows_per_step // IMAGES)
