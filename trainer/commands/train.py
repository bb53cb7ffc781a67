"""`trainer train`, start to end: rows -> features -> LoRA -> scores on held-out rows -> a version in the store."""

import logging
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from service.adapters.base import Base
from service.checkpoint import locate
from service.members import CONFIG, members
from service.types import Adapter
from trainer.adapter.local import LocalAdapter
from trainer.adapter.lora import add_lora, without_lora
from trainer.adapter.mixture import add_mixture, member_config
from trainer.adapter.parent import Parent
from trainer.adapter.version import how_to_serve, plain_config, trainer_version, write_version
from trainer.config.training import TrainOptions
from trainer.data.digests import IMAGES, data_digest, image_list
from trainer.data.forms.reading import Reading
from trainer.data.row import Row, per_question
from trainer.data.split import read_sides, sample, sample_of_both
from trainer.disk import check_folder
from trainer.errors import OptionError
from trainer.evaluation.comparison import compare
from trainer.evaluation.manifest import manifest_of
from trainer.evaluation.report import write_report
from trainer.evaluation.result import Source
from trainer.model.checkpoint import Checkpoint
from trainer.model.tokens import Form
from trainer.processes import this_process
from trainer.training.arguments import uses_bfloat16
from trainer.training.loop import fit
from trainer.training.prepare import prepare
from trainer.training.reference import preference
from trainer.training.run import begin, facts, owned

log = logging.getLogger(__name__)

# The hidden size below which a base is small: adapters for it want larger learning rates than those for a 7B (4,096).
_SMALL = 1024
# What the embedded adapters were trained with, about.
_RATE_OF_SMALL = 3e-3
# What may make an adapter better than its base; {} is the page with the curves.
_MORE = (
    "while its held-out loss still falls ({}), more --epochs, fewer --rows-per-step or a higher --learning-rate teach"
    " it more"
)


def train(options: TrainOptions, command: Sequence[str] = ()) -> Adapter | None:
    """Train, evaluate, publish; of several processes the first publishes, and the others get None.

    With --plan only the plan is logged, and all get None. `command` is the command line, for the card.

    Raises:
        TrainerError: faulty rows or options, a loss that is no number, or an adapter that gains nothing.
        AdapterRefused: the adapter of --init-adapter does not fit the base.
        FileNotFoundError: `options.model` is not a LLaVA checkpoint.
    """
    output = options.output or Path("runs") / options.name
    check_folder("--store", options.store)
    if options.feature_cache:
        check_folder("--feature-cache", options.feature_cache)
    # A plan leaves a run's directory as it is, also one that another process is training in.
    with nullcontext() if options.plan else owned(output, "train"):
        return _train(options, output, command)


def _train(options: TrainOptions, output: Path, command: Sequence[str]) -> Adapter | None:
    # 1. Rows, none of them on both sides.
    sides = read_sides(
        options.sets, options.eval_data, options.holdout, options.seed, options.feature_cache, Reading.of(options)
    )
    draw = sample if options.experts == "none" else sample_of_both
    rows, held_out = sides.train, draw(sides.held_out, options.score_rows, options.seed)
    log.info("%d training rows, %d held out, %d of these scored", len(rows), len(sides.held_out), len(held_out))
    if options.experts != "none":
        _check_both_kinds(rows, held_out)
    # 2. The base, and what its frozen half makes of every image.
    path = locate(options.model)
    parent = Parent.of(options, path, output)
    if not options.plan:
        begun_from = parent.facts if parent else {}
        begin(output, options, begun_from | facts(options, sides, Base.of_checkpoint(path)), options.resume)
    checkpoint = Checkpoint.load(path, options.nf4, uses_bfloat16(options))
    _check_rate(options, checkpoint)
    form: Form = "asked" if options.method == "sft" else "paired"
    learns = partial(add_lora if options.experts == "none" else add_mixture, options=options)
    lessons = prepare(checkpoint, rows, held_out, sides.digests, options, learns, form)
    if lessons is None:
        return None
    # 3. The adapter.
    if options.experts == "none":
        model = add_lora(checkpoint.model, options, parent.adapter.weights if parent else None)
        shape = model.peft_config["default"]
    else:
        model, shape = add_mixture(checkpoint.model, options), member_config(options)
    images = image_list(sides.digests[image] for image in lessons.trees.tokens.images)
    if parent:
        images = parent.images(images, held_out, sides.digests)
    if this_process().is_main_process:
        (output / IMAGES).write_text(images)
    wanted = preference(options, model, checkpoint.precision, lessons, output) if form == "paired" else None
    weights = fit(model, lessons, options, output, wanted)
    if this_process().is_main_process:
        for folder in members(weights).values():
            (folder / CONFIG).write_bytes(plain_config(folder))
    this_process().wait_for_everyone()
    # 4. Both models on the held-out rows, the adapter as it was written; each process asks its share.
    adapter, plain = LocalAdapter(options.name, weights, output), without_lora(checkpoint, model, options.nf4)
    how = options.gate, options.max_tokens, options.blind_rows, options.seed
    begun = parent.adapter if parent else None
    trial = compare(adapter, plain, per_question(held_out), lessons.sight, *how, begun=begun)
    if not this_process().is_main_process:
        return None
    source = Source(options.model, checkpoint.base.id, checkpoint.base.precision)
    write_report(str(output / "report.html"), [replace(trial.evaluation(source, options.name), run=output)])
    trial.check(f"it lies in {weights}", _MORE.format(output / "report.html"))
    # 5. A version that says how it was made.
    manifest = manifest_of(
        options,
        checkpoint,
        trial,
        trainer=trainer_version(),
        rank=max([shape.r, *shape.rank_pattern.values()]),
        alpha=shape.lora_alpha,
        targets=str(shape.target_modules),
        data_digest=data_digest(rows, sides.digests),
        begun_from=parent.described(trial.begun.gate) if parent and trial.begun else "",
        mixture=options.experts != "none",
    )
    published = write_version(
        options.store,
        manifest,
        weights,
        shlex.join(command or sys.argv),
        images,
        options.canary,
        trial.calibration(checkpoint.base.precision),
    )
    log.info("published %s as %s", published.key, published.path)
    log.info("%s", how_to_serve(options.store, options.model))
    return published


def _check_rate(options: TrainOptions, checkpoint: Checkpoint) -> None:
    """Warn of the default learning rate where the base is small."""
    if checkpoint.hidden_size < _SMALL and "learning_rate" not in options.model_fields_set:
        log.warning(
            "--learning-rate %g is what a 7B wants; from it a base of hidden size %d learns next to nothing: try %g",
            *(options.learning_rate, checkpoint.hidden_size, _RATE_OF_SMALL),
        )


def _check_both_kinds(rows: Sequence[Row], held_out: Sequence[Row]) -> None:
    """Refuse a mixture of rows that are all of one kind.

    Raises:
        OptionError: naming the side and the kind.
    """
    for side, part in (("the training rows", rows), ("the held-out rows", held_out)):
        pictured = sum(row.image is not None for row in part)
        if pictured in (0, len(part)):
            kind = "text alone" if not pictured else "rows with an image alone"
            raise OptionError(
                f"--experts: a mixture learns from rows with images and rows of text, and {side} are {kind}: add the"
                " others by a second --data, or leave --experts out"
            )
