"""`trainer merge`: a base and an adapter -> one checkpoint whose weights hold both, for tools that take no LoRA."""

import hashlib
import logging
from pathlib import Path

from peft import PeftModel
from transformers import LlavaForConditionalGeneration

from service.adapters.base import MERGED
from service.adapters.modules import WEIGHTS
from trainer.adapter.find import find
from trainer.config.checkpoints import MergeOptions
from trainer.model.checkpoint_files import begin_copy, copy_companions, new_directory, rename_tower

log = logging.getLogger(__name__)


def merge(options: MergeOptions) -> Path:
    """Write the checkpoint, in the base's own precision, which rounds each weight once more.

    Raises:
        OptionError: a packed base, an adapter that is not there, or an output that is.
        AdapterRefused: an adapter that does not fit the base.
        FileNotFoundError: `options.model` is not a LLaVA checkpoint.
    """
    packed = (
        "packed weights take no adapter: name the checkpoint it was packed from, and pack what was merged with"
        " `trainer quantize`"
    )
    source = begin_copy(options.model, options.output, packed)
    adapter = find(options.adapter, options.store)
    weights = adapter.single("--adapter")
    adapter.check_fits(source)
    model = LlavaForConditionalGeneration.from_pretrained(source, dtype="auto", local_files_only=True)
    merged = PeftModel.from_pretrained(model, str(weights)).merge_and_unload(safe_merge=True)
    # Its embeddings and projector are the base's, by which adapters know theirs: those of the base do not fit this one.
    setattr(merged.config, MERGED, hashlib.sha256((weights / WEIGHTS).read_bytes()).hexdigest())
    with new_directory(options.output) as part:
        copy_companions(source, part)
        merged.save_pretrained(part)
        rename_tower(part)
    log.info("wrote %s: %s with %s in it", options.output, options.model, adapter.name)
    return options.output
