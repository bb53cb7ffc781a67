"""Rows -> what the loop trains on: token trees, forests as large as memory allows, and the states of their images."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch

from service.memory import available, return_large_blocks
from trainer.config.training import LoopOptions
from trainer.data.row import Row
from trainer.errors import OptionError
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import at_once
from trainer.model.forest import IMAGES, Trees, bend_of, grow, pack
from trainer.model.precision import has_bfloat16
from trainer.model.sight import sight_of
from trainer.model.tokens import Form, Tokens, encode
from trainer.processes import gathered, sharing, this_process
from trainer.training.lessons import Lessons
from trainer.training.memory_plan import Need, Shape, need
from trainer.training.meter import resident_bytes
from trainer.training.optimizer import timed_optimizer
from trainer.training.time_plan import blank, duration, seconds_an_image, seconds_an_update
from trainer.training.updates import Shares, Updates, updates_of

log = logging.getLogger(__name__)
# Tokens of a forest that are tried where the options do not say: more are no faster.
TOKENS = 8192
_FEWER = (TOKENS, TOKENS // 2, TOKENS // 4, TOKENS // 8)
# Of free memory a plan may take this: the estimate is good to 15%, and what is short by so much does not fit.
_SHARE = 0.85
# What a forward pass takes of an update over as many tokens.
_LOOK = 1 / 3
# Updates that are looked at for the largest forest.
_UPDATES = 8
# With fewer updates in all an adapter has hardly begun to learn.
_FEW = 50


def prepare(
    checkpoint: Checkpoint,
    rows: Sequence[Row],
    held_out: Sequence[Row],
    digests: Mapping[str, str],
    options: LoopOptions,
    learns: Callable[[Any], Any],
    form: Form = "asked",
) -> Lessons | None:
    """What `fit` takes; None where the options ask for the plan alone.

    `digests` has the SHA-256 of every image's bytes, in hex; `learns` makes parts of a LLaVA learn, as the
    training will.

    Raises:
        DataError: rows that are too long for the base, or images that cannot be read or decoded.
        OptionError: options that do not fit the rows, no room for the features, or no memory for a step.
    """
    tokens, held_out_tokens = (
        encode(part, checkpoint.prompt, checkpoint.image_shape[0], checkpoint.context, form)
        for part in (rows, held_out)
    )
    bend = bend_of(checkpoint.hidden_size, checkpoint.model.device.type == "cuda")
    trees, budget, checkpointing, planned = _fitted(checkpoint, tokens, options, learns, bend)
    order = updates_of(trees, options)
    if (updates := _updates(order, options)) < _FEW:
        log.warning(
            "%d updates in all, of up to %d rows each, are few to learn from: more --epochs or fewer --rows-per-step"
            " make more",
            *(updates, options.rows_per_step),
        )
    if options.precision == "bfloat16" and not has_bfloat16():
        log.warning(
            "--precision bfloat16: this machine multiplies in it by software, on a CPU without AVX-512 ten times as"
            " slowly as in float32, which --precision auto takes"
        )
    if options.plan:
        shares = Shares(order, trees, budget, bend, blank(checkpoint), int(this_process().num_processes))
        _tell_time(checkpoint, options, learns, shares, checkpointing, held_out_tokens)
        return None
    cache = None if options.no_feature_cache else options.feature_cache
    room = int(options.feature_cache_gb * 1e9) if options.feature_cache_gb else None
    sight = sight_of(checkpoint, chain(rows, held_out), cache, room, digests)
    held = grow(held_out_tokens, most_branches(options), max(budget, _longest(held_out_tokens)))
    return Lessons(trees, held, sight, budget, bend, checkpointing, planned)


def most_branches(options: LoopOptions) -> int:
    """Rows about one image that share its tokens, so that an update sees about IMAGES images at least."""
    return -(-options.rows_per_step // IMAGES)


def _fitted(
    checkpoint: Checkpoint, tokens: Tokens, options: LoopOptions, learns: Callable[[Any], Any], bend: float
) -> tuple[Trees, int, bool, Need]:
    """Trees, the tokens of a forest, whether to checkpoint, and what that takes: the quickest that memory holds.

    Fewer tokens cost less time than checkpointing does, down to a quarter.
    """
    longest = _longest(tokens)
    budgets = [options.tokens] if options.tokens else sorted({max(each, longest) for each in _FEWER}, reverse=True)
    ways = [True] if options.gradient_checkpointing else [False, True]
    # The least of all processes, which have to make the same forests or they wait for one another for ever.
    on_gpu = checkpoint.model.device.type == "cuda"
    if not on_gpu:
        return_large_blocks()  # or freed tensors stay with the process, which no plan foresees
    free = min(gathered([torch.cuda.mem_get_info()[0] if on_gpu else available()]))
    found: Need | None = None
    for checkpointing in ways:
        for budget in budgets:
            trees = grow(tokens, most_branches(options), budget)
            order = updates_of(trees, options)
            shape = _largest(trees, order, budget, bend)
            found = need(
                checkpoint.model.config,
                learns,
                shape,
                bfloat16=checkpoint.bfloat16,
                nf4=bool(getattr(options, "nf4", False)),
                checkpointing=checkpointing,
                optimizer=options.optimizer,
                on_gpu=on_gpu,
                tower_images=shape.images if options.no_feature_cache else min(len(tokens.images), at_once(checkpoint)),
            ).shared(*sharing())
            if not on_gpu:
                found = found.beside(resident_bytes())
            if found.more <= _SHARE * free:
                log.info("memory, GB: %s; %.2f more are free now, the base loaded", found, free / 1e9)
                log.info(
                    "%d updates an epoch, forests of %d tokens at most%s",
                    *(len(order), budget, ", activations computed twice" if checkpointing else ""),
                )
                return trees, budget, checkpointing, found
    assert found
    raise OptionError(
        f"memory: this training takes, in GB, {found}, and {free / 1e9:.2f} are free beside the base: give fewer"
        " --tokens, a smaller --rank, --gradient-checkpointing, --nf4, or a machine with more"
    )


def _tell_time(
    checkpoint: Checkpoint,
    options: LoopOptions,
    learns: Callable[[Any], Any],
    shares: Shares,
    checkpointing: bool,
    held_out_tokens: Tokens,
) -> None:
    """Log how long the training will take, by its first updates on images without content, which spoil the model."""
    images = len(shares.trees.tokens.images)
    log.info(
        "features of %d images that are not kept yet: %s at most, decoding not counted",
        *(images, duration(images * seconds_an_image(checkpoint))),
    )
    model = learns(checkpoint.model)
    if checkpointing:
        checkpoint.model.gradient_checkpointing_enable({"use_reentrant": False})
    each = seconds_an_update(checkpoint, model, shares, timed_optimizer(options, model))
    updates = _updates(shares.updates, options)
    epochs = updates / len(shares.updates)
    looks = math.ceil(updates / options.save_steps if options.patience and options.save_steps else epochs)
    part = (
        held_out_tokens.lengths.sum() / shares.trees.tokens.lengths.sum()
    )  # of an epoch's rows, without a backward pass
    look = float(part) * len(shares.updates) * each * _LOOK
    log.info(
        "%d updates of %.2f s, as the first were, and %d looks at the held-out rows: %s; scoring comes behind",
        *(updates, each, looks, duration(updates * each + looks * look)),
    )


def _updates(order: Updates, options: LoopOptions) -> int:
    """The updates of the whole training, where no patience ends it before."""
    return options.max_steps or round(len(order) * options.epochs)


def _longest(tokens: Tokens) -> int:
    """The tokens of the longest row with its image."""
    return int((tokens.lengths + (tokens.image >= 0) * len(tokens.head)).max(initial=1))


def _largest(trees: Trees, order: Updates, budget: int, bend: float) -> Shape:
    """The shape of the largest forest of the first updates; every token behind the images counts as an answer's."""
    shapes = []
    for update in order.epoch(0)[:_UPDATES]:
        lengths = [int(trees.lengths[tree]) for tree in update]
        for forest in pack(lengths, budget, bend):
            length = -(-max(sum(lengths[tree] for tree in sequence) for sequence in forest) // 8) * 8
            own = [update[tree] for sequence in forest for tree in sequence]
            images = int((trees.image[own] >= 0).sum())
            answers = int(trees.lengths[own].sum()) - images * len(trees.tokens.head)
            shapes.append(Shape(len(forest), length, max(1, answers), images))
    return max(shapes, key=lambda shape: shape.sequences * shape.length)
