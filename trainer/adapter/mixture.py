"""A mixture of modalities (Luo et al., "LaVIN", NeurIPS 2023), made to compile into two plain LoRAs.

Two experts share one down-projection; how much of each a token gets depends on the modality of its row alone, by a
table of logits (modalities, experts) in each layer:

    w(m) = softmax(table[m] / temperature)          u = x + s * W sum_k w_k(m) B_k A x       for each linear x -> W x

LaVIN's router reads a decision token that no other token attends to, so its weights too are one pair for a layer and a
modality: the table says as much. Since w is constant for a modality, the LoRA with A and B(m) = sum_k w_k(m) B_k does
what the mixture does for that modality, exactly; these two are what is served.

`mixture` has experts in each linear. `lavin` has LaVIN's form: one correction of the normalised input before q, k and
v, u' = u + s * sum_k w_k(m) U_k D u, whose compiled B for a linear is W B(m). LaVIN's U is a convolution in two groups;
here it is a whole matrix, which can be that. `two-up` has one up-projection for each modality, and no table.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn

from service.members import IMAGE, TEXT, WEIGHTS
from trainer.adapter.lora import targets
from trainer.config.training import TrainOptions
from trainer.model.base_llava import BaseLlava, unfreeze
from trainer.model.forest import Batch
from trainer.model.forward import TreeLlava, loss_sum
from trainer.training.optimizer import TABLE

# In the order of the table's rows: row 1 is of what has an image.
MEMBERS = (TEXT, IMAGE)
# The share of its own expert that each modality begins with. Two experts at zero under an even table would have the
# same gradient for ever.
_OWN = 0.75
_EXPERTS = 2


class Table(nn.Module):
    """A layer's table; `pictured` (sequences, length) says of each token whether its row has an image."""

    def __init__(self, temperature: float, apart: bool) -> None:
        """With `apart` each modality has an expert of its own, and the table learns nothing."""
        super().__init__()
        self.pictured: torch.Tensor | None = None
        self._temperature, self._apart = temperature, apart
        begin = math.log(_OWN / (1 - _OWN)) / 2 * temperature
        if not apart:
            self.mixture_table = nn.Parameter(begin * (2 * torch.eye(_EXPERTS) - 1))

    def weights(self, table: torch.Tensor | None = None) -> torch.Tensor:
        """The experts' weights by modality, (modalities, experts), each row summing to 1; by `table`, or by its own."""
        if self._apart:
            return torch.eye(_EXPERTS)
        return ((self.mixture_table if table is None else table) / self._temperature).softmax(-1)

    def forward(self) -> torch.Tensor:
        """Each expert's weight for each token, (sequences, length, experts), summing to 1 over the experts."""
        assert self.pictured is not None, "a mixture's layers are told of modalities by the forward pass of a forest"
        found: torch.Tensor = self.weights().to(self.pictured.device)[self.pictured.long()]
        return found


class Experts(nn.Module):
    """The correction of one linear or norm: shared down-projection, two up-projections side by side."""

    def __init__(self, inputs: int, outputs: int, options: TrainOptions, table: Table) -> None:
        super().__init__()
        self.mixture_down = nn.Linear(inputs, options.rank, bias=False)
        self.mixture_up = nn.Linear(_EXPERTS * options.rank, outputs, bias=False)
        nn.init.kaiming_uniform_(self.mixture_down.weight, a=math.sqrt(5))  # as PEFT begins a LoRA
        nn.init.zeros_(self.mixture_up.weight)
        self._scale, self._dropout = options.lora_alpha / options.rank, nn.Dropout(options.dropout)
        self._table = [table]  # in a list: the layer owns it

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(sequences, length, inputs) -> what is to be added, (sequences, length, outputs)."""
        low, weights = self.mixture_down(self._dropout(states)), self._table[0]()
        mixed = torch.cat([low * weights[..., expert : expert + 1] for expert in range(_EXPERTS)], -1)
        added: torch.Tensor = self.mixture_up(mixed.to(low.dtype)) * self._scale
        return added


class Corrected(nn.Module):
    """A module of the base and the experts that correct its output, by its input or, of a norm, by that output."""

    def __init__(self, base: Any, experts: Experts, by_output: bool) -> None:
        super().__init__()
        self.base, self.experts, self.by_output = base, experts, by_output

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The linear's output plus the experts' corrections, (sequences, length, output)."""
        out: torch.Tensor = self.base(states)
        added: torch.Tensor = self.experts(out if self.by_output else states)
        return out + added.to(out.dtype)


class MixtureLlava(BaseLlava):
    """A LLaVA with experts in its language model, which alone learn; saves them and the LoRAs that they compile to."""

    takes_pictured = True
    mixture: TrainOptions
    mixture_hooks: list[Any]

    def forward(self, *args: Any, trees: torch.Tensor | None = None, **inputs: Any) -> Any:
        """See transformers; with `trees`, the summed loss of a forest."""
        if trees is None:
            return super().forward(*args, **inputs)
        return loss_sum(self, Batch(trees=trees, **inputs))

    def save_pretrained(self, directory: Any, state_dict: dict[str, torch.Tensor] | None = None, **_: Any) -> None:
        """Write the experts and tables as safetensors, and each compiled member as PEFT's files in a folder."""
        super().save_pretrained(directory, state_dict)
        for member, tensors in compiled(self, state_dict).items():
            folder = Path(directory) / member
            folder.mkdir(parents=True, exist_ok=True)
            member_config(self.mixture).save_pretrained(str(folder))
            save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    def unload(self) -> None:
        """Put the base's own linears back in the experts' place; the model is changed in place."""
        for hook in self.mixture_hooks:
            hook.remove()
        for layer in self.model.language_model.layers:
            for module in list(layer.modules()):
                for name, child in list(module.named_children()):
                    if isinstance(child, Corrected):
                        setattr(module, name, child.base)
            del layer.mixture
        self.__dict__.pop("forward", None)  # the loop's own, around this class's
        self.__class__ = TreeLlava


def add_mixture(llava: Any, options: TrainOptions) -> Any:
    """Put experts into a LLaVA's language model, in place, so that they alone learn; returns it, a `MixtureLlava`."""
    torch.manual_seed(options.seed)
    hooks = []
    for layer in llava.model.language_model.layers:
        table = Table(options.temperature, apart=options.experts == "two-up")
        layer.mixture = table.to(_device(layer))
        hooks.append(layer.register_forward_pre_hook(_tell, with_kwargs=True))
        for parent, name in _places(layer, options):
            _correct(parent, name, options, table)
    unfreeze(llava, ("mixture_",))
    llava.__class__ = MixtureLlava
    llava.mixture, llava.mixture_hooks = options, hooks
    return llava


def compiled(llava: Any, state_dict: dict[str, torch.Tensor] | None = None) -> dict[str, dict[str, torch.Tensor]]:
    """The plain LoRA that the mixture is for each modality, by member: PEFT's names and float32 tensors.

    `state_dict` has the model's own tensors whole, where processes share them out.
    """
    tensors = state_dict or llava.state_dict()
    found: dict[str, dict[str, torch.Tensor]] = {member: {} for member in MEMBERS}
    for number, layer in enumerate(llava.model.language_model.layers):
        place = f"model.language_model.layers.{number}."
        own = {name.removeprefix(place): tensor for name, tensor in tensors.items() if name.startswith(place)}
        weights = layer.mixture.weights(own.get(f"mixture.{TABLE}")).detach().float().cpu()
        for name, module in layer.named_modules():
            if isinstance(module, Corrected):
                for row, member in enumerate(MEMBERS):
                    for linear, down, up in _pairs(name, module.by_output, own, weights[row]):
                        key = f"base_model.model.{place}{linear}"
                        found[member] |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
    return found


def member_config(options: TrainOptions) -> LoraConfig:
    """The content of adapter_config.json for one compiled member, image or text."""
    linears = ("q_proj", "k_proj", "v_proj") if options.experts == "lavin" else options.targets
    return LoraConfig(
        r=options.rank,
        lora_alpha=options.lora_alpha,
        target_modules=targets(linears),
        bias="none",
        inference_mode=True,
    )


def tables(llava: Any) -> list[list[list[float]]]:
    """The experts' weights that a mixture has learnt: by layer, modality (text first) and expert."""
    return [layer.mixture.weights().tolist() for layer in llava.model.language_model.layers]


def _tell(layer: Any, args: Any, inputs: dict[str, Any]) -> Any:
    """Give the layer's table `pictured` of the forward pass.

    It is passed as an argument, so that a layer that is computed again for backward (checkpointing) gets it too.
    """
    if (pictured := inputs.pop("pictured", None)) is not None:
        layer.mixture.pictured = pictured
    return args, inputs


def _places(layer: Any, options: TrainOptions) -> Iterator[tuple[Any, str]]:
    if options.experts == "lavin":
        yield layer, "input_layernorm"
        return
    for parent in (layer.self_attn, layer.mlp):
        yield from ((parent, name) for name, _ in list(parent.named_children()) if name in options.targets)


def _correct(parent: Any, name: str, options: TrainOptions, table: Table) -> None:
    base = getattr(parent, name)
    norm = not hasattr(base, "in_features")
    sizes = (base.weight.shape[0],) * 2 if norm else (base.in_features, base.out_features)
    experts = Experts(*sizes, options, table).to(_device(parent))
    setattr(parent, name, Corrected(base, experts, by_output=norm))


def _pairs(
    name: str, by_output: bool, layer: Mapping[str, torch.Tensor], weights: torch.Tensor
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """A correction as LoRA pairs: the linear's name in its layer, A (rank, inputs) and B (outputs, rank).

    `layer` has the layer's tensors by name, `weights` (experts,) are those of the modality.
    """
    down = layer[f"{name}.experts.mixture_down.weight"].detach().float().cpu()
    first, second = layer[f"{name}.experts.mixture_up.weight"].detach().float().cpu().chunk(_EXPERTS, 1)
    up = weights[0] * first + weights[1] * second
    if not by_output:
        yield name, down.clone(), up.contiguous()
        return
    for linear in (f"self_attn.{each}" for each in ("q_proj", "k_proj", "v_proj")):
        yield linear, down.clone(), layer[f"{linear}.weight"].detach().float().cpu() @ up


def _device(module: Any) -> torch.device:
    device: torch.device = next(iter(module.parameters())).device
    return device
