"""The base checkpoint and the LoRA on its language model: loading, and the one forward pass that training takes."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from os import environ
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from accelerate.state import AcceleratorState
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.other import get_pattern_key
from PIL import Image
from torch.nn import functional
from transformers import AutoImageProcessor, BitsAndBytesConfig, CompressedTensorsConfig, LlavaForConditionalGeneration
from transformers.integrations import unset_hf_deepspeed_config

from service.adapters.base import Base
from service.adapters.manifest import preparation_facts
from service.adapters.modules import TARGETS
from service.images import Preparation
from service.prompt import Prompt
from trainer.config.commands import LINEARS, TrainOptions
from trainer.errors import OptionError
from trainer.model.attention import mask
from trainer.model.forest import Batch
from trainer.model.int4 import quick_unpacking

# Parts of a checkpoint's names that are no matrices of products, or whose sums must not be rounded.
_FLOAT32 = ("norm", "layrnorm", "vision_tower.*embeddings")


class TreeLlava(LlavaForConditionalGeneration):  # type: ignore[misc]  # transformers is untyped
    """LLaVA whose forward also takes the fields of a `Batch` and gives its `loss_sum`.

    Training has to go through a model's own forward: that is where DDP, FSDP and DeepSpeed hook in.
    """

    accepts_loss_kwargs = True  # ask transformers' Trainer for the step's number of answer tokens

    def forward(self, *args: Any, trees: torch.Tensor | None = None, **inputs: Any) -> Any:
        """See transformers; with `trees`, the summed loss of a forest."""
        return super().forward(*args, **inputs) if trees is None else loss_sum(self, Batch(trees=trees, **inputs))


@dataclass(frozen=True)
class Checkpoint:
    """A base checkpoint in memory, and what the service prepares its inputs with.

    Where matrices multiply in bfloat16 those that stay as they are are held in it; what they multiply, norms and the
    residual stream are float32, as under autocast over float32 weights, and the losses are the same bit for bit.
    """

    path: Path
    model: Any
    processor: Any
    base: Base
    prompt: Prompt
    preparation: Preparation
    bfloat16: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """What matrices multiply in."""
        return torch.bfloat16 if self.bfloat16 else torch.float32

    @property
    def hidden_size(self) -> int:
        """Of the language model's states."""
        return int(self.model.config.text_config.hidden_size)

    def precision(self) -> AbstractContextManager[Any]:
        """What the model has to run in."""
        return torch.autocast(self.model.device.type, self.dtype, enabled=self.bfloat16)

    @cached_property
    def sight(self) -> tuple[int, int]:
        """Tokens of an image and the size of the tower's state of each."""
        blank = self.processor(images=[Image.new("RGB", (64, 64))], return_tensors="pt").pixel_values
        with self.precision():
            tokens, width = tower_states(self.model, blank).shape[1:]
        return int(tokens), int(width)

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
    def load(cls, path: Path, nf4: bool = False, bfloat16: bool = False, learns: Sequence[str] = ()) -> "Checkpoint":
        """Load the llava-hf checkpoint in a directory; INT4 weights are dequantised, to the values that serve.

        With `bfloat16` matrices are held in it, but for modules that `learns` names: those stay in float32.

        Raises:
            FileNotFoundError: the directory is not a LLaVA checkpoint.
            OptionError: `nf4` of weights that are packed already, or weights packed in another form.
        """
        base, preparation = Base.of_checkpoint(path), Preparation.of_checkpoint(path)
        # Set by every launcher of several processes, each of which has a GPU of its own.
        device = f"cuda:{environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
        packing = _packing(path, base, nf4)
        with _in_float32(*_FLOAT32, *learns), quick_unpacking() if base.precision == "int4" else nullcontext():
            model = LlavaForConditionalGeneration.from_pretrained(
                path,
                dtype=torch.bfloat16 if bfloat16 else torch.float32,
                local_files_only=True,
                quantization_config=packing,
                device_map={"": device} if nf4 else None,  # packed where it stays: else every process packs on GPU 0
            )
        if not nf4:  # INT4 weights are dequantised in the precision of their scales, whatever was asked
            settle(model, bfloat16, learns)
        elif bfloat16:
            _round_once(model)
        model.__class__ = TreeLlava  # loaded by its own name: transformers translates keys by it
        processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
        return cls(path, model.eval().to(device), processor, base, Prompt(path), preparation, bfloat16)


@contextmanager
def _in_float32(*names: str) -> Iterator[None]:
    """Within the block LLaVA is loaded with the modules named so in float32, whatever is asked of the others."""
    before = LlavaForConditionalGeneration._keep_in_fp32_modules_strict
    LlavaForConditionalGeneration._keep_in_fp32_modules_strict = [name.replace(".*", "*") for name in names]
    try:
        yield
    finally:
        LlavaForConditionalGeneration._keep_in_fp32_modules_strict = before


def settle(llava: Any, bfloat16: bool, learns: Sequence[str] = ()) -> Any:
    """Have a LLaVA hold its weights as `Checkpoint` says: in float32, or its matrices in bfloat16."""
    for name, parameter in llava.named_parameters():
        exact = not bfloat16 or any(re.search(part, name) for part in (*_FLOAT32, *learns))
        parameter.data = parameter.data.to(torch.float32 if exact else torch.bfloat16)
    if bfloat16:
        _round_once(llava)
    return llava


def _round_once(llava: Any) -> None:
    """Have a layer's norms give bfloat16, which is what every product behind them rounds to, each for itself.

    Losses are the same, and backward keeps one copy of these states instead of one for each of seven adapters.
    """
    for layer in llava.model.language_model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.register_forward_hook(lambda _, __, states: states.bfloat16())


def has_bfloat16() -> bool:
    """Whether this machine multiplies matrices in bfloat16 by itself."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))


def alone(checkpoint: Checkpoint, lora: Any, nf4: bool) -> Checkpoint:
    """`checkpoint` after training, the LoRA off it; loaded again where FSDP or DeepSpeed took its model apart."""
    if AcceleratorState().distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        lora.unload()
        return checkpoint
    unset_hf_deepspeed_config()  # or transformers would load it in parts again
    return Checkpoint.load(checkpoint.path, nf4, checkpoint.bfloat16)


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
        return _uncast(PeftModel.from_pretrained(model, str(begun_from), is_trainable=True))
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
    wrapped = _uncast(get_peft_model(model, config))
    for option, patterns in (("rank", options.rank_pattern), ("alpha", options.alpha_pattern)):
        for pattern in patterns:
            if not any(get_pattern_key([pattern], name) == pattern for name in wrapped.targeted_module_names):
                raise OptionError(
                    f"--{option}-pattern: {pattern!r} is no module's: it has to match the end of names such as"
                    f" {wrapped.targeted_module_names[0]}, from behind a dot"
                )
    return wrapped


def _uncast(lora: Any) -> Any:
    """Leave it to autocast to fit a layer's input to the LoRA: PEFT's copy in float32 would be kept."""
    for module in lora.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False
    return lora


def targets(linears: Sequence[str]) -> str:
    """PEFT's regular expression for those linears of each layer of the language model: TARGETS if they are all."""
    if set(linears) == set(LINEARS):
        return TARGETS
    return rf".*language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(linears)})"


def tower_states(llava: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What the tower makes of pixels (images, 3, side, side): states (images, image tokens, tower's hidden size)."""
    given: list[torch.Tensor] = []
    # LLaVA chooses the tower's layer and tokens itself; what it chose is what the projector is called with.
    hook = llava.model.multi_modal_projector.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with hook, torch.no_grad():
        llava.get_image_features(pixels.to(llava.device))
    return given[0]


def project(llava: Any, states: torch.Tensor) -> torch.Tensor:
    """The tower's states of images -> what stands in the image tokens' places, (images, image tokens, hidden size)."""
    projector = llava.model.multi_modal_projector
    weight = projector.linear_1.weight
    tokens: torch.Tensor = projector(states.to(weight.device, weight.dtype))
    return tokens


def embed(llava: Any, token_ids: torch.Tensor, features: torch.Tensor | None = None) -> torch.Tensor:
    """Token embeddings in float32, the image tokens' places taken by `features`, any shape of (…, hidden size).

    Shape (sequences, length, hidden size).
    """
    embeds: torch.Tensor = llava.get_input_embeddings()(token_ids).float()
    if features is None:
        return embeds
    places = (token_ids == llava.config.image_token_id).unsqueeze(-1)
    return embeds.masked_scatter(places, features.to(embeds))


def answer_logits(llava: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits where an answer token is predicted, and those tokens: (answers, vocabulary) and (answers,).

    The vocabulary projection runs for these positions only: it is most of a small model's work otherwise.
    """
    states = tower_states(llava, batch.pixels) if batch.pixels.numel() else batch.states
    hidden = llava.model.language_model(
        inputs_embeds=embed(llava, batch.token_ids, project(llava, states) if states.numel() else None),
        attention_mask=mask(batch, llava.model.language_model.config._attn_implementation),
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state
    return llava.lm_head(hidden.flatten(0, 1)[batch.answers]), batch.labels


def loss_sum(llava: Any, batch: Batch) -> torch.Tensor:
    """Cross-entropy summed over the batch's answer tokens, in nats."""
    logits, labels = answer_logits(llava, batch)
    return functional.cross_entropy(logits.float(), labels, reduction="sum")
