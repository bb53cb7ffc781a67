"""`trainer train`, start to end: rows -> features -> LoRA -> scores on held-out rows -> a version in the store."""

import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from accelerate import PartialState

from service.adapters.base import Base
from service.adapters.manifest import Manifest
from service.adapters.modules import CONFIG
from service.checkpoint import locate
from service.types import Adapter
from trainer.batches import collate, grow
from trainer.config import TrainOptions
from trainer.data.digests import IMAGES, data_digest, image_list
from trainer.data.split import read_sides
from trainer.evaluation import Source
from trainer.features import Features
from trainer.gate import check_gain
from trainer.lens import Lens
from trainer.loop import fit, uses_bfloat16
from trainer.model import Checkpoint, add_lora, alone
from trainer.parent import Parent
from trainer.places import check_folder
from trainer.publish import choose_probes, now, plain_config, publish, trainer_version
from trainer.report import write_report
from trainer.run import begin, facts, owned
from trainer.trial import compare

log = logging.getLogger(__name__)


def train(options: TrainOptions, command: Sequence[str] = ()) -> Adapter | None:
    """Train, evaluate, publish; of several processes only the first evaluates and publishes, the others get None.

    Raises:
        TrainerError: faulty rows or options, or an adapter that gains nothing.
        FileNotFoundError: `options.model` is not a LLaVA checkpoint.
    """
    output = options.output or Path("runs") / options.name
    check_folder("--store", options.store)
    if options.feature_cache:
        check_folder("--feature-cache", options.feature_cache)
    with owned(output, "train"):
        return _train(options, output, command)


def _train(options: TrainOptions, output: Path, command: Sequence[str]) -> Adapter | None:
    # 1. Rows, none of them on both sides.
    sides = read_sides(options.sets, options.eval_data, options.holdout, options.seed, options.feature_cache)
    rows, held_out = sides.train, sides.held_out
    log.info("%d training rows, %d held out", len(rows), len(held_out))
    # 2. The base, and what its frozen half makes of every image.
    path = locate(options.model)
    parent = Parent.of(options, path, output)
    begin(
        output,
        options,
        (parent.facts if parent else {}) | facts(options, sides, Base.of_checkpoint(path)),
        options.resume,
    )
    checkpoint = Checkpoint.load(path, options.nf4)
    features = Features.of(checkpoint, [*rows, *held_out], options.feature_cache, bfloat16=uses_bfloat16(options))
    trees, unseen = (
        grow(part, checkpoint.prompt, features.tokens, options.questions_per_sequence, checkpoint.context)
        for part in (rows, held_out)
    )
    # 3. The adapter.
    model = add_lora(checkpoint.model, options, parent.lens.weights if parent else None)
    shape = model.peft_config["default"]
    images = image_list(sides.digests[row.image] for row in rows if row.image)
    if parent:
        images = parent.images(images, held_out, sides.digests)
    if PartialState().is_main_process:
        (output / IMAGES).write_text(images)
    batch = partial(collate, features=features, pad_id=checkpoint.prompt.pad_token_id)
    weights = fit(model, trees, unseen, batch, options, output)
    if not PartialState().is_main_process:
        return None
    (weights / CONFIG).write_bytes(plain_config(weights))
    # 4. Both models on the held-out rows, the adapter as it was written.
    lens = Lens(options.name, weights, output)
    trial = compare(lens, alone(checkpoint, model, options.nf4), held_out, features, options.gate, options.max_tokens)
    source = Source(options.model, checkpoint.base.id, checkpoint.base.precision)
    write_report(str(output / "report.html"), [replace(trial.evaluation(source, options.name), run=output)])
    check_gain(trial.gate, len(held_out), f"it lies in {weights}")
    # 5. A version that says how it was made.
    manifest = Manifest(
        name=options.name,
        about=options.about,
        created=now(),
        trainer=trainer_version(),
        **checkpoint.facts,
        rank=max([shape.r, *shape.rank_pattern.values()]),
        alpha=shape.lora_alpha,
        targets=str(shape.target_modules),
        modality=options.modality,
        data_digest=data_digest(rows, sides.digests),
        score=trial.score,
        categories=trial.categories,
        gate=trial.gate,
        begun_from=parent.said if parent else "",
        probes=choose_probes(held_out, trial.base, trial.adapter, checkpoint.preparation),
    )
    published = publish(options.store, manifest, weights, shlex.join(command or sys.argv), images)
    log.info("published %s as %s", published.key, published.path)
    return published
