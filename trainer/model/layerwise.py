"""A LLaVA checkpoint read from disk a part at a time: its language model runs layer by layer, never whole in memory.

What stays in memory is one layer, tower, projector, embeddings and head, and the hidden states of what is run.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, LlavaForConditionalGeneration
from transformers.utils import logging as transformers_logging

from trainer.model.checkpoint_files import INDEX, on_disk

Tensors = dict[str, torch.Tensor]
LAYERS = "language_model.model.layers."


class Streamed:
    """One checkpoint; `front` is its model without decoder layers: tower, projector, embeddings, last norm and head.

    `depth` is how many decoder layers it has.
    """

    def __init__(self, folder: Path) -> None:
        """Find every tensor, and load what is no layer of the language model, in bfloat16.

        Raises:
            FileNotFoundError: a file that the index names is missing, or there are no safetensors.
        """
        self.folder = folder
        self._places = _places(folder)
        self.config = AutoConfig.from_pretrained(folder, local_files_only=True)
        self.depth: int = self.config.text_config.num_hidden_layers
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.config.text_config.num_hidden_layers = 0
        with _quiet():  # it would name every layer's tensors as unexpected
            front = LlavaForConditionalGeneration.from_pretrained(
                folder, config=self.config, dtype=torch.bfloat16, local_files_only=True
            )
        self.front: Any = front.eval().to(self.device)
        self._layer = self._template()

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
        """Names as in llava-hf checkpoints, and tensors in bfloat16: those whose names begin with `prefix`.

        Without a prefix those that are of no layer of the language model.
        """
        wanted = {
            name: place
            for name, place in self._places.items()
            if (name.startswith(prefix) if prefix else not name.startswith(LAYERS))
        }
        for file in sorted({file for file, _ in wanted.values()}):
            with safe_open(file, framework="pt") as opened:
                for name, (where, stored) in wanted.items():
                    if where == file:
                        tensor = opened.get_tensor(stored)
                        yield name, tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor

    def layer(self, number: int) -> Any:
        """That decoder layer with its weights, in bfloat16; the same module each time, so one at a time.

        Raises:
            FileNotFoundError: a tensor of it is missing.
        """
        prefix = f"{LAYERS}{number}."
        state = {name.removeprefix(prefix): tensor.to(self.device) for name, tensor in self.tensors(prefix)}
        if missing := sorted(set(self._layer.state_dict()) - set(state)):
            raise FileNotFoundError(f"{self.folder} is not complete: layer {number} has no {', '.join(missing)}")
        self._layer.load_state_dict(state, assign=True)
        return self._layer

    def embed(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The embeddings that the first layer is given for one sequence of a processor: (1, length, hidden size)."""
        given: list[torch.Tensor] = []

        hook = self.front.model.language_model.register_forward_pre_hook(
            lambda _, __, kwargs: given.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
        try:
            self.front.model(**{name: self._there(tensor) for name, tensor in inputs.items()})
        finally:
            hook.remove()
        return given[0].cpu()

    def run(self, layer: Any, hidden: torch.Tensor) -> torch.Tensor:
        """The output of a layer for one sequence's states, both (1, length, hidden size)."""
        hidden = hidden.to(self.device)
        positions = torch.arange(hidden.shape[1], device=self.device)[None]
        angles = self.front.model.language_model.rotary_emb(hidden, positions)
        found = layer(hidden, attention_mask=None, position_ids=positions, position_embeddings=angles)
        out: torch.Tensor = found[0] if isinstance(found, tuple) else found
        return out.cpu()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits in float32, (positions, vocabulary), for states of the last layer, (positions, hidden size)."""
        normed = self.front.model.language_model.norm(hidden.to(self.device))
        logits: torch.Tensor = self.front.lm_head(normed).float()
        return logits.cpu()

    def _there(self, tensor: torch.Tensor) -> torch.Tensor:
        there = tensor.to(self.device)
        return there.to(torch.bfloat16) if there.is_floating_point() else there

    def _template(self) -> Any:
        """A decoder layer without values, of the class that transformers has for this model."""
        self.config.text_config.num_hidden_layers = 1
        with torch.device("meta"):
            model = LlavaForConditionalGeneration(self.config)
        return model.model.language_model.layers[0].to(torch.bfloat16).eval()


def _places(folder: Path) -> dict[str, tuple[Path, str]]:
    """The file and the name in it of every tensor, by its name in llava-hf checkpoints."""
    index = folder / INDEX
    files = (
        sorted({folder / file for file in json.loads(index.read_text())["weight_map"].values()})
        if index.is_file()
        else sorted(folder.glob("*.safetensors"))
    )
    if missing := [file.name for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{folder} is not complete: it has no {', '.join(missing)}")
    if not files:
        raise FileNotFoundError(f"{folder} has no weights in safetensors")
    found: dict[str, tuple[Path, str]] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            found |= {on_disk(name): (file, name) for name in opened.keys()}  # noqa: SIM118 - safe_open is no mapping
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
