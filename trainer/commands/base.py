"""`trainer base`: a LLaVA's projector, or projector and language model, trained on rows -> a base checkpoint."""

import logging
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration
from transformers.integrations import unset_hf_deepspeed_config

from service.adapters.base import Base
from trainer.config.training import StageOptions
from trainer.data.forms.reading import Reading
from trainer.data.split import read_sides, sample
from trainer.disk import check_folder
from trainer.model.base_llava import WEIGHTS, unfreeze
from trainer.model.checkpoint import Checkpoint
from trainer.model.checkpoint_files import begin_copy, copy_companions, new_directory, rename_tower
from trainer.processes import this_process
from trainer.training.arguments import uses_bfloat16
from trainer.training.loop import fit
from trainer.training.prepare import prepare
from trainer.training.run import begin, facts, owned

log = logging.getLogger(__name__)


def train_base(options: StageOptions) -> Path | None:
    """Train one stage and write the checkpoint; of several processes only the first writes, the others get None.

    With --plan only the plan is logged, and all get None.

    Raises:
        TrainerError: faulty rows or options, an INT4 checkpoint among them.
        FileNotFoundError: `options.model` is not a LLaVA checkpoint.
    """
    packed = (
        "packed weights cannot learn: name the checkpoint it was packed from, and pack what was trained with"
        " `trainer quantize`"
    )
    source = begin_copy(options.model, options.output, packed)
    if options.feature_cache:
        check_folder("--feature-cache", options.feature_cache)
    run = Path("runs") / options.output.name
    # A plan leaves a run's directory as it is, also one that another process is training in.
    with nullcontext() if options.plan else owned(run, f"base {options.stage}"):
        return _train(options, source, run)


def _train(options: StageOptions, source: Path, run: Path) -> Path | None:
    sides = read_sides(
        options.sets, options.eval_data, options.holdout, options.seed, options.feature_cache, Reading.of(options)
    )
    rows, held_out = sides.train, sample(sides.held_out, options.score_rows, options.seed)
    log.info("%d training rows, %d held out, %d of these measured", len(rows), len(sides.held_out), len(held_out))
    checkpoint = Checkpoint.load(source, bfloat16=uses_bfloat16(options), learns=options.learns)
    learns = partial(unfreeze, parts=options.learns)
    lessons = prepare(checkpoint, rows, held_out, sides.digests, options, learns, options.written)
    if lessons is None:
        return None
    begin(run, options, facts(options, sides, Base.of_checkpoint(source)), options.resume)
    learnt = fit(unfreeze(checkpoint.model, options.learns), lessons, options, run)
    if not this_process().is_main_process:
        return None
    unset_hf_deepspeed_config()  # or, after ZeRO-3, this process alone would load the base as its part of one
    write_base(source, learnt / WEIGHTS, options.output)
    log.info("wrote %s", options.output)
    return options.output


def write_base(source: Path, learnt: Path, target: Path) -> None:
    """Write the checkpoint in `source`, in its own precision, with the tensors of the file `learnt` in their places."""
    model = LlavaForConditionalGeneration.from_pretrained(source, dtype="auto", local_files_only=True)
    strange = model.load_state_dict(load_file(learnt), strict=False).unexpected_keys
    assert not strange, strange
    with new_directory(target) as part:
        copy_companions(source, part)
        model.save_pretrained(part)
        rename_tower(part)
