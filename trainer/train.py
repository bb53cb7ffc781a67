"""`trainer train`, start to end: rows -> features -> LoRA -> scores on held-out rows -> a version in the store."""

import logging
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from accelerate import PartialState

from service.adapters.manifest import Manifest
from service.adapters.modules import TARGETS
from service.checkpoint import locate
from service.types import Adapter
from trainer.batches import collate, grow
from trainer.config import TrainOptions
from trainer.data.digests import IMAGES, data_digest, image_list
from trainer.data.split import read_sides
from trainer.errors import NoGain
from trainer.evaluation import Evaluation, Source
from trainer.features import Features
from trainer.lens import Lens
from trainer.loop import fit, uses_bfloat16
from trainer.model import Checkpoint, add_lora, alone
from trainer.publish import choose_probes, now, publish, trainer_version
from trainer.report import write_report
from trainer.score import by_category, score

log = logging.getLogger(__name__)


def train(options: TrainOptions, command: Sequence[str] = ()) -> Adapter | None:
    """Train, evaluate, publish; of several processes only the first evaluates and publishes, the others get None.

    Raises:
        TrainerError: faulty rows or options, or an adapter that gains nothing.
        FileNotFoundError: `options.model` is not a LLaVA checkpoint.
    """
    # 1. Rows, none of them on both sides.
    rows, held_out = read_sides(options.data, options.images, options.eval_data, options.holdout, options.seed)
    log.info("%d training rows, %d held out", len(rows), len(held_out))
    # 2. The base, and what its frozen half makes of every image.
    checkpoint = Checkpoint.load(locate(options.model), options.nf4)
    features = Features.of(checkpoint, [*rows, *held_out], options.feature_cache, bfloat16=uses_bfloat16(options))
    trees, unseen = (
        grow(part, checkpoint.prompt, features.tokens, options.questions_per_sequence, checkpoint.context)
        for part in (rows, held_out)
    )
    # 3. The adapter.
    model = add_lora(checkpoint.model, options)
    output = options.output or Path("runs") / options.name
    output.mkdir(parents=True, exist_ok=True)
    images = image_list(features.digests[row.image] for row in rows if row.image)
    (output / IMAGES).write_text(images)
    batch = partial(collate, features=features, pad_id=checkpoint.prompt.pad_token_id)
    weights = fit(model, trees, unseen, batch, options, output, muon=options.optimizer == "muon")
    if not PartialState().is_main_process:
        return None
    # 4. Both models on the held-out rows, the adapter as it was written.
    lens = Lens(options.name, weights, weights)
    base, adapter = lens.answers(alone(checkpoint, model, options.nf4), held_out, features)
    texts = [answer.text for answer in base], [answer.text for answer in adapter]
    source = Source(options.model, checkpoint.base.id, checkpoint.base.precision)
    found = Evaluation(source, options.name, tuple(held_out), tuple(texts[0]), tuple(texts[1]), run=output)
    write_report(str(output / "report.html"), [found])
    result = score(held_out, *texts)
    log.info("held out: base %d, adapter %d of %d right", result.base, result.adapter, result.rows)
    if result.adapter <= result.base:
        raise NoGain(f"the adapter is no better than its base on {result.rows} held-out rows: not published")
    # 5. A version that says how it was made.
    manifest = Manifest(
        name=options.name,
        about=options.about,
        created=now(),
        trainer=trainer_version(),
        **checkpoint.facts,
        rank=options.largest_rank,
        alpha=options.lora_alpha,
        targets=TARGETS,
        modality=options.modality,
        data_digest=data_digest(rows, features.digests),
        score=result,
        categories=by_category(held_out, *texts),
        probes=choose_probes(held_out, base, adapter, checkpoint.preparation),
    )
    published = publish(options.store, manifest, weights, shlex.join(command or sys.argv), images)
    log.info("published %s as %s", published.key, published.path)
    return published
