"""What a training takes in memory, found before it starts by running one step on tensors without content.

PyTorch's fake tensors have shapes and no memory: a step on them allocates and frees as a real one does, and the most
that it holds at a time is counted. Two and three layers are run; each further one takes what the third did. The tower's
pass over images is run likewise, all of it.
"""

import weakref
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import LlavaForConditionalGeneration

from trainer.model.attention import kernel
from trainer.model.forest import Batch

# NormalFloat's 4 bits, and 0.127 of constants that are quantised again (Dettmers et al., QLoRA, 2023, section 3).
_NF4_BYTES = 4.127 / 8
# What the loop's code and libraries take when they first run, as found on a CPU: 46 to 113 MB in three trainings.
_LOOP = 70_000_000
# AdamW's two moments in float32, or in a byte each; Muon has one.
_MOMENTS = {"adamw": 8, "adamw-8bit": 2, "muon": 4}


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a forest: sequences of one length, tokens that are predicted in them, and images that they show."""

    sequences: int
    length: int
    answers: int
    images: int = 0


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes by part: the base's weights, what learns, the optimiser's moments, and the most that a step adds.

    Where the tower's pass takes more than the rest of a step, which does not run at the same time, `step` is that pass.
    Where all is in the process's own memory, on a CPU, `process` is what it holds beside the base before the training,
    and `loop` what code and libraries take as they first run.
    """

    weights: int
    learns: int
    moments: int
    step: int
    process: int = 0
    loop: int = 0

    @property
    def more(self) -> int:
        """What the training adds to what is held before it."""
        return self.learns + self.moments + self.step + self.loop

    @property
    def total(self) -> int:
        """The sum of all parts, in bytes."""
        return self.weights + self.more + self.process

    def shared(self, weights: int, states: int) -> "Need":
        """What one process takes where so many share out the weights that learn, and so many gradients and moments."""
        gradients = self.learns - self.learns // states
        step = max(0, self.step - gradients)  # in which they were counted whole
        return replace(self, learns=self.learns // weights, moments=self.moments // states, step=step)

    def beside(self, held: int) -> "Need":
        """The same in a process that holds so many bytes, the base among them, before its training begins."""
        return replace(self, process=max(0, held - self.weights), loop=_LOOP)

    def __str__(self) -> str:
        parts = {"base": self.weights, "learns": self.learns, "optimiser": self.moments, "step": self.step}
        parts |= {"process": self.process + self.loop} if self.process else {}
        return ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items()) + f": {self.total / 1e9:.2f} GB"


class Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages that live at once, but for those of `weights`: `most` of them, and `now`."""

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self.now = 0
        self._known = {weight.untyped_storage()._cdata for weight in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._see, out)
        return out

    def _see(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, key, storage.nbytes())
        return tensor

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def need(
    config: Any,
    prepare: Callable[[Any], Any],
    shape: Shape,
    *,
    bfloat16: bool = True,
    nf4: bool = False,
    checkpointing: bool = False,
    optimizer: str = "adamw",
    on_gpu: bool = False,
    tower_images: int = 0,
) -> Need:
    """What training a LLaVA of `config` takes; `prepare` makes parts of it learn, as the training will.

    `on_gpu` says that attention runs in a kernel that holds no weights of pairs of tokens; `tower_images` is how many
    images go through the tower at once, in a step or before the first.
    """
    few, more = (_few(config, prepare, shape, bfloat16, checkpointing, on_gpu, layers) for layers in (2, 3))
    rest = config.text_config.num_hidden_layers - 2
    frozen, learnt, linears, step = (a + rest * (b - a) for a, b in zip(few, more, strict=True))
    weights = frozen - (int(linears * (2 if bfloat16 else 4) - linears * _NF4_BYTES) if nf4 else 0)
    return Need(weights, learnt * 4, learnt * _MOMENTS[optimizer], max(step, _tower(config, tower_images, bfloat16)))


def _few(
    config: Any,
    prepare: Callable[[Any], Any],
    shape: Shape,
    bfloat16: bool,
    checkpointing: bool,
    on_gpu: bool,
    layers: int,
) -> tuple[int, int, int, int]:
    """Bytes of frozen weights, numbers that learn, numbers in frozen linears of layers, most bytes of a step."""
    from trainer.model.forward import TreeLlava, loss_sum
    from trainer.model.precision import cast_weights

    with torch.device("meta"):
        llava = _cut(config, layers)
        llava.__class__ = TreeLlava
        learns = prepare(cast_weights(llava, bfloat16))
    with FakeTensorMode():
        fake_weights(learns)
        llava.train()
        if checkpointing:
            llava.gradient_checkpointing_enable({"use_reentrant": False})
        parameters = list(llava.named_parameters())
        frozen = sum(p.numel() * p.element_size() for _, p in parameters if not p.requires_grad)
        learnt = sum(p.numel() for _, p in parameters if p.requires_grad)
        linears = sum(
            p.numel()
            for n, p in parameters
            if "layers" in n and p.ndim == 2 and not p.requires_grad and "tower" not in n
        )
        size = (shape.sequences, shape.length)
        numbers = torch.zeros(size, dtype=torch.long)
        places = torch.zeros(shape.answers, dtype=torch.long)
        products = sdpa_kernel(SDPBackend.FLASH_ATTENTION) if on_gpu else kernel(shape.length)
        with Peak(weight for _, weight in parameters) as peak, products:
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                states = _states(llava, shape)
                loss = loss_sum(
                    llava, Batch(numbers, numbers, numbers, numbers, places, places, states, pictured=numbers.bool())
                )
            loss.backward()  # type: ignore[no-untyped-call]
        return frozen, learnt, linears, peak.most


def _states(llava: Any, shape: Shape) -> torch.Tensor:
    """States of at least one image: where the projector alone learns, backward keeps activations only for images."""
    vision, projector = llava.config.vision_config, llava.model.multi_modal_projector
    tokens = (vision.image_size // vision.patch_size) ** 2
    return torch.zeros(max(1, shape.images), tokens, projector.linear_1.in_features)


def _tower(config: Any, images: int, bfloat16: bool) -> int:
    """The most bytes that the tower's pass over so many images takes, their pixels and states among them."""
    from trainer.model.forward import tower_states
    from trainer.model.precision import cast_weights

    if not images:
        return 0
    with torch.device("meta"):
        llava = cast_weights(_cut(config, 1), bfloat16)
    with FakeTensorMode():
        fake_weights(llava)
        with Peak(llava.parameters()) as peak, torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            side = config.vision_config.image_size
            tower_states(llava, torch.zeros(images, 3, side, side))
    return int(peak.most)


def _cut(config: Any, layers: int) -> Any:
    """A LLaVA of `config` whose language model has so many layers, its weights in floats."""
    small = deepcopy(config)
    small.text_config.num_hidden_layers = layers
    small.quantization_config = None
    return LlavaForConditionalGeneration(small)


def fake_weights(model: Any) -> None:
    """Give every weight of a model on no device a fake one on the CPU; called within a FakeTensorMode."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                fresh = torch.empty(weight.shape, dtype=weight.dtype)
                module._parameters[name] = torch.nn.Parameter(fresh, requires_grad=weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
