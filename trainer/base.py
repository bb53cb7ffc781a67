"""`trainer base`: a LLaVA's projector, or projector and language model, trained on rows -> a base checkpoint."""

import logging
import shutil
from functools import partial
from pathlib import Path

from accelerate import PartialState
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from service.adapters.base import Base
from service.checkpoint import locate
from trainer.batches import collate, grow
from trainer.config import StageOptions
from trainer.data.split import read_sides
from trainer.errors import OptionError
from trainer.features import Features
from trainer.loop import fit, uses_bfloat16
from trainer.model import Checkpoint
from trainer.saving import FLOATS, INDEX, new_directory, rename_tower
from trainer.whole import WEIGHTS, unfreeze

log = logging.getLogger(__name__)

# What a checkpoint has beside its weights: how it is asked and shown pictures, which no training changes.
_KEPT = ("*.json", "*.jinja", "*.model", "*.txt")


def train_base(options: StageOptions) -> Path | None:
    """Train one stage and write the checkpoint; of several processes only the first writes, the others get None.

    Raises:
        TrainerError: faulty rows or options, an INT4 checkpoint among them.
        FileNotFoundError: `options.model` is not a LLaVA checkpoint.
    """
    source = locate(options.model)
    if options.output.exists():
        raise OptionError(f"--output: {options.output} is there already: name a new directory")
    if (precision := Base.of_checkpoint(source).precision) not in FLOATS:
        raise OptionError(
            f"--model: {options.model} is {precision}, and packed weights cannot learn: name the checkpoint it was "
            "packed from, and pack what was trained with `trainer quantize`"
        )
    rows, held_out = read_sides(options.data, options.images, options.eval_data, options.holdout, options.seed)
    log.info("%d training rows, %d held out", len(rows), len(held_out))
    checkpoint = Checkpoint.load(source)
    features = Features.of(
        checkpoint, [*rows, *held_out], options.feature_cache, projected=False, bfloat16=uses_bfloat16(options)
    )
    trees, unseen = (
        grow(part, checkpoint.prompt, features.tokens, options.questions_per_sequence, checkpoint.context)
        for part in (rows, held_out)
    )
    batch = partial(collate, features=features, pad_id=checkpoint.prompt.pad_token_id)
    run = Path("runs") / options.output.name
    run.mkdir(parents=True, exist_ok=True)
    learnt = fit(unfreeze(checkpoint.model, options.learns), trees, unseen, batch, options, run)
    if not PartialState().is_main_process:
        return None
    write_base(source, learnt / WEIGHTS, options.output)
    log.info("wrote %s", options.output)
    return options.output


def write_base(source: Path, learnt: Path, target: Path) -> None:
    """Write the checkpoint in `source`, in its own precision, with the tensors of the file `learnt` in their places."""
    model = LlavaForConditionalGeneration.from_pretrained(source, dtype="auto", local_files_only=True)
    strange = model.load_state_dict(load_file(learnt), strict=False).unexpected_keys
    assert not strange, strange
    with new_directory(target) as part:
        for file in (file for pattern in _KEPT for file in source.glob(pattern) if file.name != INDEX):
            shutil.copyfile(file, part / file.name)
        model.save_pretrained(part)
        rename_tower(part)
