"""The base checkpoint and the LoRA on its language model: loading, and the one forward pass that training takes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from accelerate.state import AcceleratorState
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.other import get_pattern_key
from torch.nn import functional
from transformers import AutoImageProcessor, BitsAndBytesConfig, CompressedTensorsConfig, LlavaForConditionalGeneration
from transformers.integrations import unset_hf_deepspeed_config

from service.adapters.base import Base
from service.adapters.manifest import preparation_facts
from service.adapters.modules import TARGETS
from service.images import Preparation
from service.prompt import Prompt
from trainer.batches import IGNORED, Batch
from trainer.config import LINEARS, TrainOptions
from trainer.errors import OptionError


class TreeLlava(LlavaForConditionalGeneration):  # type: ignore[misc]  # transformers is untyped
    """LLaVA whose forward also takes the fields of a `Batch` and gives its `loss_sum`.

    Training has to go through a model's own forward: that is where DDP, FSDP and DeepSpeed hook in.
    """

    accepts_loss_kwargs = True  # ask transformers' Trainer for the step's number of answer tokens

    def forward(self, *args: Any, seen: torch.Tensor | None = None, **inputs: Any) -> Any:
        """See transformers; with `seen`, the summed loss of trees."""
        return super().forward(*args, **inputs) if seen is None else loss_sum(self, Batch(seen=seen, **inputs))


@dataclass(frozen=True)
class Checkpoint:
    """A base checkpoint in memory: the model in float32, and what the service prepares its inputs with."""

    path: Path
    model: Any
    processor: Any
    base: Base
    prompt: Prompt
    preparation: Preparation

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says of the base, by its fields' names."""
        return {
            "base_id": self.base.id,
            "base_digest": self.base.digest,
            "base_precision": self.base.precision,
            "prompt_digest": self.prompt.digest,
            "preparation": preparation_facts(self.preparation),
        }

    @property
    def context(self) -> int:
        """Tokens that question, image and answer may come to."""
        return int(self.model.config.text_config.max_position_embeddings)

    @classmethod
    def load(cls, path: Path, nf4: bool = False) -> "Checkpoint":
        """Load the llava-hf checkpoint in a directory; INT4 weights are dequantised, to the values that serve.

        Raises:
            FileNotFoundError: the directory is not a LLaVA checkpoint.
            OptionError: `nf4` of weights that are packed already, or weights packed in another form.
        """
        base, preparation = Base.of_checkpoint(path), Preparation.of_checkpoint(path)
        # Set by every launcher of several processes, each of which has a GPU of its own.
        device = f"cuda:{environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
        packing = _packing(path, base, nf4)
        model = LlavaForConditionalGeneration.from_pretrained(
            path,
            dtype=torch.float32,
            local_files_only=True,
            quantization_config=packing,
            device_map={"": device} if nf4 else None,  # packed where it stays: else every process packs on GPU 0
        )
        model.__class__ = TreeLlava  # loaded by its own name: transformers translates keys by it
        processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
        return cls(path, model.eval().to(device), processor, base, Prompt(path), preparation)


def alone(checkpoint: Checkpoint, lora: Any, nf4: bool) -> Checkpoint:
    """`checkpoint` after training, the LoRA off it; loaded again where FSDP or DeepSpeed took its model apart."""
    if AcceleratorState().distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        lora.unload()
        return checkpoint
    unset_hf_deepspeed_config()  # or transformers would load it in parts again
    return Checkpoint.load(checkpoint.path, nf4)


def _packing(path: Path, base: Base, nf4: bool) -> Any:
    """How transformers is to hold the weights: INT4 spread out again, or NF4 for the language model's linears."""
    quantised = json.loads((path / "config.json").read_text()).get("quantization_config")
    if quantised and (base.precision, quantised.get("quant_method")) != ("int4", "compressed-tensors"):
        raise OptionError(
            f"--model: {path} is quantised to {base.precision} by {quantised.get('quant_method')}: training takes"
            " floats, and INT4 by compressed-tensors, which `trainer quantize` writes"
        )
    if base.precision == "int4":
        if nf4:
            raise OptionError(f"--nf4: {base.id} is INT4 already: leave --nf4 out, or name the bf16 checkpoint")
        return CompressedTensorsConfig(dequantize=True)
    if not nf4:
        return None
    kept = [".*vision_tower", ".*multi_modal_projector", "lm_head"]
    products = torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=products,
        bnb_4bit_quant_storage=products,  # FSDP shares out tensors of one type alone
        llm_int8_skip_modules=kept,
    )


def add_lora(model: Any, options: TrainOptions, begun_from: Path | None = None) -> Any:
    """Wrap a LLaVA so that only a LoRA on its language model trains; tower and projector stay frozen.

    It is a new one, or that of PEFT's files in the directory `begun_from`.

    Raises:
        OptionError: a pattern that is no module's.
    """
    torch.manual_seed(options.seed)
    if begun_from:
        return PeftModel.from_pretrained(model, str(begun_from), is_trainable=True)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.dropout,
        use_rslora=options.rslora,
        rank_pattern=dict(options.rank_pattern),
        alpha_pattern=dict(options.alpha_pattern),
        target_modules=targets(options.targets),
        bias="none",
    )
    wrapped = get_peft_model(model, config)
    for option, patterns in (("rank", options.rank_pattern), ("alpha", options.alpha_pattern)):
        for pattern in patterns:
            if not any(get_pattern_key([pattern], name) == pattern for name in wrapped.targeted_module_names):
                raise OptionError(
                    f"--{option}-pattern: {pattern!r} is no module's: it has to match the end of names such as"
                    f" {wrapped.targeted_module_names[0]}, from behind a dot"
                )
    return wrapped


def targets(linears: Sequence[str]) -> str:
    """PEFT's regular expression for those linears of each layer of the language model: TARGETS if they are all."""
    if set(linears) == set(LINEARS):
        return TARGETS
    return rf".*language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(linears)})"


def embed(llava: Any, token_ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Token embeddings with the image tokens' places taken by `features`; shape (trees, length, hidden size)."""
    embeds: torch.Tensor = llava.get_input_embeddings()(token_ids)
    places = (token_ids == llava.config.image_token_id).unsqueeze(-1)
    return embeds.masked_scatter(places, features.to(embeds)) if len(features) else embeds


def answer_logits(llava: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits where an answer token is predicted, and those tokens: (answers, vocabulary) and (answers,).

    The vocabulary projection runs for these positions only: it is most of a small model's work otherwise.
    """
    hidden = llava.model.language_model(
        inputs_embeds=embed(llava, batch.token_ids, batch.features),
        attention_mask=batch.seen,
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state
    answers = batch.labels != IGNORED
    return llava.lm_head(hidden[answers]), batch.labels[answers]


def loss_sum(llava: Any, batch: Batch) -> torch.Tensor:
    """Cross-entropy summed over the batch's answer tokens, in nats."""
    logits, labels = answer_logits(llava, batch)
    return functional.cross_entropy(logits.float(), labels, reduction="sum")
