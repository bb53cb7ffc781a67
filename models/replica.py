"""`python -m models.replica OUT`: a LLaVA-1.5 of the true shape, its weights random.

No 7B weights can be had without a network, and speed and memory do not depend on their values. What is written loads
in transformers and vLLM like llava-hf/llava-1.5-7b-hf: its configuration, key names, processor, chat template, and a
real SentencePiece tokenizer of 32,000 tokens (Mistral's first, which `mistral-common` carries; vLLM brings that
package). Weights are written layer by layer, so that memory stays under 2 GB at any number of layers.
"""

import json
import math
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, CliPositionalArg, SettingsConfigDict
from safetensors.torch import save_file
from tokenizers import AddedToken
from transformers import CLIPVisionConfig, LlamaConfig, LlamaTokenizer, LlavaConfig, LlavaForConditionalGeneration

from models.checkpoint import processor
from trainer.model.checkpoint_files import INDEX, new_directory, on_disk
from trainer.model.int4 import packing_config

# Tokens of the SentencePiece model; llava-hf's embeddings have rows beyond it and its two added tokens.
WORDS, IMAGE, PAD, ROWS = 32_000, 32_000, 32_001, 32_064
BOS, EOS = 1, 2
_PACKED = re.compile(r".*language_model\.layers\.\d+\..*_proj\.weight")

Tensors = dict[str, torch.Tensor]


class Replica(BaseSettings):
    """Write a LLaVA-1.5 of the true shape with random weights."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_REPLICA_", cli_kebab_case=True, cli_prog_name="python -m models.replica"
    )

    output: CliPositionalArg[Path] = Field(description="a new directory for the checkpoint")
    size: Literal["7b", "13b", "small"] = Field(
        "7b", description="LLaVA-1.5-7B or -13B; small: a few megabytes with the same files, for tests"
    )
    layers: int | None = Field(None, gt=0, description="layers of the language model [all: 32 at 7b, 40 at 13b]")
    precision: Literal["int4", "bfloat16"] = Field("int4", description="of the language model's linears")
    seed: int = Field(0, description="of the weights")
    device: str = Field("cpu", description="where the weights are drawn: cuda is faster")


def config(size: str, layers: int | None = None) -> LlavaConfig:
    """The configuration of llava-hf/llava-1.5-7b-hf, of its 13B sister, or of a small model with the same files."""
    hidden, inner, heads, depth = {
        "7b": (4096, 11008, 32, 32),
        "13b": (5120, 13824, 40, 40),
        "small": (128, 256, 4, 2),
    }[size]
    text = LlamaConfig(
        vocab_size=ROWS,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers or depth,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    small = size == "small"
    vision = CLIPVisionConfig(
        hidden_size=64 if small else 1024,
        intermediate_size=128 if small else 4096,
        num_hidden_layers=3 if small else 24,
        num_attention_heads=4 if small else 16,
        image_size=56 if small else 336,
        patch_size=14,
        projection_dim=768,
    )
    sequence = (vision.image_size // vision.patch_size) ** 2
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=sequence, dtype="bfloat16"
    )


def write(options: Replica) -> int:
    """Write the checkpoint; returns the bytes of its weights."""
    shape = config(options.size, options.layers)
    with new_directory(options.output) as part:
        write_files(shape, part, options.precision)
        return _write_weights(shape, part, options)


def write_files(shape: LlavaConfig, target: Path, precision: str = "bfloat16") -> None:
    """Write all of a checkpoint but its weights: configuration, tokenizer, processor and chat template."""
    shape.architectures = ["LlavaForConditionalGeneration"]
    if precision == "int4":
        shape.quantization_config = packing_config(_group_size(shape))
    shape.save_pretrained(target)
    (target / "generation_config.json").write_text(
        json.dumps({"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}) + "\n"
    )
    processor(tokenizer(target), shape.vision_config.image_size, shape.vision_config.patch_size).save_pretrained(target)


def tokenizer(folder: Path) -> LlamaTokenizer:
    """The SentencePiece tokenizer with LLaVA's two tokens; its model file is put into `folder`.

    Raises:
        ModuleNotFoundError: there is no mistral-common here.
    """
    import mistral_common

    shutil.copy(Path(mistral_common.__file__).parent / "data/tokenizer.model.v1", folder / "tokenizer.model")
    llama = LlamaTokenizer.from_pretrained(str(folder), legacy=False, add_bos_token=True)
    llama.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    llama.add_special_tokens({"pad_token": "<pad>"})
    assert llama.convert_tokens_to_ids(["<image>", "<pad>"]) == [IMAGE, PAD]
    return llama


def _group_size(shape: LlavaConfig) -> int:
    return 128 if shape.text_config.hidden_size % 128 == 0 and shape.text_config.hidden_size > 128 else 32


def _write_weights(shape: LlavaConfig, target: Path, options: Replica) -> int:
    """A file for each layer of the language model and one for the rest, and their index."""
    torch.manual_seed(options.seed)
    group_size = _group_size(shape) if options.precision == "int4" else None
    places: dict[str, str] = {}
    total = 0
    for number, shapes in enumerate(parts(shape)):
        tensors: Tensors = {}
        for name, size in shapes.items():
            tensors |= _drawn(name, size, shape.text_config.num_hidden_layers, group_size, options.device)
        file = f"model-{number:05d}.safetensors"
        save_file(tensors, target / file, metadata={"format": "pt"})
        (target / file).chmod(0o644)
        places |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (target / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return total


def parts(shape: LlavaConfig) -> Iterator[dict[str, torch.Size]]:
    """Names on disk and shapes of the tensors: first all outside the language model's layers, then layer by layer."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(shape)
    parts: dict[str, dict[str, torch.Size]] = {"": {}}
    for name, tensor in model.state_dict().items():
        layer = re.fullmatch(r"(.*language_model\.layers\.\d+\.).*", name)
        parts.setdefault(layer[1] if layer else "", {})[name] = tensor.shape
    yield from parts.values()


def _drawn(name: str, size: torch.Size, layers: int, group_size: int | None, device: str) -> Tensors:
    """The tensors that stand for `name`: it alone, or what compressed-tensors writes of a packed linear."""
    stored = on_disk(name)
    deviation = _deviation(name, size, layers)
    if group_size and _PACKED.fullmatch(name):
        return _packed(stored, size, deviation, group_size, device)
    if "norm" in name and name.endswith("weight"):
        return {stored: torch.ones(size, dtype=torch.bfloat16)}
    drawn = torch.empty(size, dtype=torch.bfloat16, device=device).normal_(0, deviation)
    if name.endswith("lm_head.weight"):
        # Rows of unlike lengths: else the two likeliest of 32,000 tokens lie so close that rounding chooses.
        drawn *= (0.35 * torch.randn(size[0], 1, device=device)).exp().bfloat16()
    return {stored: drawn.cpu()}


def _deviation(name: str, size: torch.Size, layers: int) -> float:
    """Of a tensor's values, so that answers of many random layers depend on picture, question and adapter.

    A linear keeps the size of what it is given, but those that write into the residual stream write a part of it, so
    that the last layers still see what the first were given (GPT-2's initialisation). Attention is sharper than one of
    equal queries and keys: it looks at some of the picture, not at its mean. Embeddings weigh as much as a picture's
    tokens, so that an answer's tokens change the next. Logits have a deviation of 3, as large as trained models' are.
    """
    if name.endswith("embed_tokens.weight"):
        return 0.3
    if name.endswith("lm_head.weight"):
        return 3 / math.sqrt(size[-1])
    if not re.fullmatch(r".*(proj|fc\d|linear_\d)\.weight", name):
        return 0.02
    deviation = 1 / math.sqrt(size[-1])
    if "language_model" in name and re.search(r"[qk]_proj", name):
        return 1.5 * deviation
    if re.search(r"o_proj|down_proj", name):
        return deviation / math.sqrt(2 * layers)
    return deviation


def _packed(stored: str, size: torch.Size, deviation: float, group_size: int, device: str) -> Tensors:
    """A linear in 4 bits whose steps are equally likely from -7 to 7.

    -8 is left out: values with a mean push every state the same way, layer after layer, until all answers are alike.
    """
    rows, columns = size
    steps = torch.randint(-7, 8, (rows, columns // 8, 8), dtype=torch.int32, device=device) + 8
    words = (steps << torch.arange(0, 32, 4, dtype=torch.int32, device=device)).sum(-1, dtype=torch.int32)
    step = deviation / math.sqrt((15**2 - 1) / 12)
    stem = stored.removesuffix("weight")
    return {
        f"{stem}weight_packed": words.cpu(),
        f"{stem}weight_scale": torch.full((rows, columns // group_size), step, dtype=torch.bfloat16),
        f"{stem}weight_shape": torch.tensor([rows, columns]),
    }


def main(arguments: list[str]) -> int:
    """Write and say what was written; returns the exit status."""
    options = CliApp.run(Replica, cli_args=arguments)
    size = write(options)
    print(f"{options.output}: {size / 1e9:.2f} GB of random weights, {options.size} in {options.precision}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
