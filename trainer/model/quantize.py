"""A bf16 base -> its W4A16 copy, layer by layer from disk, and what that cost on rows kept apart.

GPTQ goes through the layers in order: each is fitted to the states that the packed layers before it give, and is
written before the next is read. The cost is counted on the way: the rows kept apart pass through each layer as it was
and as it is packed, so that neither model is ever whole in memory.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoProcessor

from service.prompt import Prompt
from trainer.errors import OptionError
from trainer.model.checkpoint_files import INDEX, copy_companions, new_directory
from trainer.model.int4 import pack, packing_config, unpack
from trainer.model.layerwise import LAYERS, Streamed

# Linears that are given the same states share their second moment.
_TOGETHER = {
    "self_attn.q_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One exchange: a question, about a prepared picture or none, and its answer."""

    picture: Image.Image | None
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Loss:
    """Of the answers' tokens of rows kept apart: mean cross-entropy in nats and share predicted, before and after."""

    tokens: int
    before: float
    after: float
    right_before: float
    right_after: float

    def summary(self) -> dict[str, float]:
        """The figures as a dictionary that json.dumps takes."""
        return {
            "answer_tokens": self.tokens,
            "loss": round(self.before, 4),
            "packed_loss": round(self.after, 4),
            "right": round(self.right_before, 4),
            "packed_right": round(self.right_after, 4),
        }


def write_int4(
    source: Path, target: Path, samples: Sequence[Sample], group_size: int, held_out: Sequence[Sample] = ()
) -> Loss | None:
    """Pack the language model in `source` to 4 bits, by GPTQ where there are samples, by rounding where none.

    The copy takes its name once every layer of it has been read again. Returns what it cost on `held_out`.

    Raises:
        OptionError: a linear's inputs are no multiple of `group_size`.
        FileNotFoundError: `source` lacks a tensor.
        OSError: the disk does not hold what was written.
    """
    checkpoint = Streamed(source)
    _check_sizes(checkpoint, group_size)
    with new_directory(target) as part, torch.inference_mode():
        _copy_files(source, part, group_size)
        writer = _Writer(part)
        writer.write(dict(checkpoint.tensors()))
        fitted = _states(checkpoint, samples)
        before = _states(checkpoint, held_out)
        after = [state.clone() for state in before]
        for number in tqdm(range(checkpoint.depth), desc="packed", unit="layer"):
            layer = checkpoint.layer(number)
            moments = _moments(checkpoint, layer, fitted)
            _pass(checkpoint, layer, before)
            _pack_layer(layer, number, moments, group_size, writer)
            _pass(checkpoint, layer, fitted)
            _pass(checkpoint, layer, after)
        writer.finish()
        return _loss(checkpoint, held_out, before, after)


def _check_sizes(checkpoint: Streamed, group_size: int) -> None:
    text = checkpoint.config.text_config
    for inputs in (text.hidden_size, text.intermediate_size):
        if inputs % group_size:
            raise OptionError(
                f"--group-size: a linear of this model has {inputs} inputs, no multiple of {group_size}: "
                f"take {math.gcd(inputs, 128)}"
            )


class _Writer:
    """Writes a checkpoint's files one by one, then their index."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._places, self._total = folder, dict[str, str](), 0

    def write(self, tensors: dict[str, torch.Tensor]) -> Path:
        """Write tensors as one more safetensors file of the checkpoint; returns its path."""
        file = self._folder / f"model-{len(set(self._places.values())):05d}.safetensors"
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, file, {"format": "pt"})
        file.chmod(0o644)
        self._places |= dict.fromkeys(tensors, file.name)
        self._total += sum(tensor.nbytes for tensor in tensors.values())
        return file

    def finish(self) -> None:
        """Write the index, which makes the checkpoint complete."""
        index = {"metadata": {"total_size": self._total}, "weight_map": self._places}
        (self._folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _copy_files(source: Path, target: Path, group_size: int) -> None:
    """All but the weights, as they are; config.json says what is packed."""
    copy_companions(source, target)
    config = json.loads((source / "config.json").read_text())
    for section in (config, config.get("text_config", {}), config.get("vision_config", {})):
        for name in ("dtype", "torch_dtype"):
            if name in section:
                section[name] = "bfloat16"
    config["quantization_config"] = packing_config(group_size)
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _states(checkpoint: Streamed, samples: Iterable[Sample]) -> list[torch.Tensor]:
    """The embeddings that the first layer is given of each sample, (1, length, hidden size)."""
    processor, prompt = _readers(checkpoint)
    return [checkpoint.embed(_encoded(processor, prompt, sample)) for sample in samples]


def _readers(checkpoint: Streamed) -> tuple[Any, Prompt]:
    """The checkpoint's processor, and what writes its prompts."""
    folder = checkpoint.folder
    return AutoProcessor.from_pretrained(folder, local_files_only=True), Prompt(folder)


def _encoded(processor: Any, prompt: Prompt, sample: Sample) -> dict[str, torch.Tensor]:
    pictures = 1 if sample.picture else 0
    text = f"{prompt.text(sample.question, pictures)} {sample.answer}{processor.tokenizer.eos_token}"
    encoded = processor(images=sample.picture, text=text, return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "pixel_values") if name in encoded}


def _pass(checkpoint: Streamed, layer: Any, states: list[torch.Tensor]) -> None:
    """Put what a layer makes of each state in its place."""
    for number, state in enumerate(states):
        states[number] = checkpoint.run(layer, state)


def _moments(checkpoint: Streamed, layer: Any, states: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """2 / samples times the sum of x x' over all tokens' inputs x of each group of linears: GPTQ's Hessians."""
    if not states:
        return {}
    found: dict[str, torch.Tensor] = {}

    def add(name: str, given: torch.Tensor) -> None:
        inputs = given.reshape(-1, given.shape[-1]).float()
        moment = found.setdefault(name, torch.zeros(inputs.shape[1], inputs.shape[1], device=inputs.device))
        moment.addmm_(inputs.T, inputs, alpha=2 / len(states))

    hooks = [
        layer.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: add(name, args[0]))
        for name in _TOGETHER
    ]
    for state in states:
        checkpoint.run(layer, state)
    for hook in hooks:
        hook.remove()
    return found


def _pack_layer(layer: Any, number: int, moments: dict[str, torch.Tensor], group_size: int, writer: _Writer) -> None:
    """Pack a layer's linears, give it the values that they stand for, write it, and read it again."""
    tensors = {name: tensor for name, tensor in layer.state_dict().items() if not name.endswith("_proj.weight")}
    packed: dict[str, torch.Tensor] = {}
    for first, names in _TOGETHER.items():
        linears = [layer.get_submodule(name) for name in names]
        # GPTQ treats outputs each by itself: what shares its inputs is packed in one go.
        made = pack(torch.cat([linear.weight for linear in linears]), moments.pop(first, None), group_size)
        for name, linear, each in zip(names, linears, made.split([len(each.weight) for each in linears]), strict=True):
            tensors |= {f"{name}.{part}": tensor for part, tensor in each.tensors.items()}
            packed[name] = linear.weight.data = each.weight
    prefix = f"{LAYERS}{number}."
    file = writer.write({prefix + name: tensor for name, tensor in tensors.items()})
    written = load_file(file)
    for name, weight in packed.items():
        stored = {part: written[f"{prefix}{name}.{part}"] for part in ("weight_packed", "weight_scale", "weight_shape")}
        if not torch.equal(unpack(stored, group_size), weight.cpu()):
            raise OSError(f"{file} does not hold what was written: is the disk full or broken?")


def _loss(
    checkpoint: Streamed, samples: Sequence[Sample], before: list[torch.Tensor], after: list[torch.Tensor]
) -> Loss | None:
    """The loss on the answers by the last layer's states, `before` of the model as it was, `after` as packed."""
    if not samples:
        return None
    processor, prompt = _readers(checkpoint)
    tokens, sums, right = 0, [0.0, 0.0], [0, 0]
    for sample, *states in zip(samples, before, after, strict=True):
        labels = torch.tensor(prompt.encode_answer(sample.question, sample.answer, 1 if sample.picture else 0))
        ends = _encoded(processor, prompt, sample)["input_ids"][0][-len(labels) :]
        tokens += len(labels)
        for side, state in enumerate(states):
            logits = checkpoint.logits(state[0, -len(labels) - 1 : -1])
            sums[side] += functional.cross_entropy(logits, ends, reduction="sum").item()
            right[side] += int((logits.argmax(-1) == ends).sum())
    return Loss(tokens, sums[0] / tokens, sums[1] / tokens, right[0] / tokens, right[1] / tokens)
