"""Stages 1 to 3: the language model learns to talk, the projector to show it pictures, then both to answer.

LLaVA starts from a language model that talks already; ours is new, so it first reads the questions and answers as
plain text. Then LLaVA's two stages: the projector alone on captions, then projector and language model on questions,
those about a thing alone first. The tower stays as it was taught, so its states are computed once per scene.

`trainer base` cannot make this model: it has AdamW alone, and weights that begin at random learn this by Muon
(optimise.py); and it reads image files, where these scenes are drawn as they are needed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from models.optimise import Optimiser
from models.questions import SceneQuestion, ask, ask_both_ways
from models.scenes import Scene, draw
from models.tower import PREPARATION, normalise
from service.prompt import Prompt
from trainer.data.row import Row
from trainer.model.forest import Trees, collate, grow
from trainer.model.forward import answer_logits
from trainer.model.tokens import encode

QUESTIONS = 16
LANGUAGE, PROJECTOR = ("language_model", "lm_head"), ("multi_modal_projector",)
# Scenes are numbered: training counts from 0, these begin where it never comes.
CALIBRATION, HELD_OUT = 10_000_000, 20_000_000
_IGNORED = -100


@dataclass(frozen=True)
class Lessons:
    """Scenes as the tower sees them, (scenes, patches, hidden size) in float16, and what is asked about them.

    `pairs` are of scenes of one thing, and empty for others.
    """

    states: Tensor
    asked: list[list[SceneQuestion]]
    pairs: list[list[SceneQuestion]]


class CachedPrompt(Prompt):
    """The scenes' questions come from a few thousand sentences: each is tokenised once."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self.encode_conversation = cache(super().encode_conversation)  # type: ignore[method-assign]


def numbered_scene(seed: int, number: int) -> tuple[Scene, list[SceneQuestion]]:
    """The scene of that number and its questions, always the same; see HELD_OUT and CALIBRATION for the far ones."""
    rng = np.random.default_rng((seed, 1, number))
    scene = draw(rng)
    return scene, ask(scene, rng, QUESTIONS)


def _pairs(scene: Scene, seed: int, number: int) -> list[SceneQuestion]:
    alone = scene.kind == "shapes" and len(scene.things) == 1
    return ask_both_ways(scene, np.random.default_rng((seed, 2, number))) if alone else []


def prepare_lessons(tower: Any, seed: int, first: int, scenes: int) -> Lessons:
    """Draw the scenes numbered from `first` and run the tower over them."""
    asked, states, pairs = [], [], []
    last = first + scenes
    for start in tqdm(range(first, last, 256), desc="scenes", unit="batch", mininterval=5):
        numbers = range(start, min(start + 256, last))
        drawn = [numbered_scene(seed, number) for number in numbers]
        asked += [questions for _, questions in drawn]
        pairs += [_pairs(scene, seed, number) for (scene, _), number in zip(drawn, numbers, strict=True)]
        pixels = torch.from_numpy(np.stack([np.asarray(PREPARATION.apply(scene.image)) for scene, _ in drawn]))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            hidden = tower(pixel_values=normalise(pixels), output_hidden_states=True).hidden_states[-2][:, 1:]
        states.append(hidden.half())
    return Lessons(torch.cat(states), asked, pairs)


def trees_of(lessons: Lessons, prompt: Prompt, asked: Sequence[Sequence[SceneQuestion]]) -> Trees:
    """Trees of what is asked about each of the lessons' scenes, which may be nothing."""
    rows = [
        Row(str(number), f"{number:07}", each.question, each.answer, each.category)
        for number, questions in enumerate(asked)
        for each in questions
    ]
    return grow(encode(rows, prompt, lessons.states.shape[1]), QUESTIONS)


def _batches(trees: Trees, size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Shuffled batches of trees of like length, as many as asked for."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(trees))
        for chunk in np.array_split(order, max(1, len(order) // (size * 16))):
            ranked = sorted(chunk, key=lambda index: trees.lengths[index])
            for start in rng.permutation(range(0, len(ranked), size)):
                yield ranked[start : start + size]
                steps -= 1
                if not steps:
                    return


def start_projector(projector: Any, states: Tensor) -> None:
    """Let the projector's first matrix make the tower's states white, and its second be of an embedding's size.

    A few directions hold most of the states' variance (where a thing lies), and colour is not among them: with random
    weights it is found late or never.
    """
    tokens = states[:1500].flatten(0, 1).float()
    mean, size = tokens.mean(0), tokens.shape[1]
    values, vectors = torch.linalg.eigh(torch.cov(tokens.T))
    white = vectors @ torch.diag((values + 0.02 * values.mean()).rsqrt()) @ vectors.T
    projector.linear_1.weight.data = torch.linalg.qr(torch.randn(size, size))[0] @ white
    projector.linear_1.bias.data = -projector.linear_1.weight.data @ mean
    torch.nn.init.normal_(projector.linear_2.weight, std=0.005)
    torch.nn.init.zeros_(projector.linear_2.bias)


def learn(
    llava: Any, states: Tensor, trees: Trees, *, name: str, parts: tuple[str, ...], steps: int,
    seed: int, muon: float = 0.02, batch: int = 16,
) -> None:  # fmt: skip
    """Train the named parts of `llava` to answer the trees' questions; all others stay as they are."""
    for key, parameter in llava.named_parameters():
        parameter.requires_grad_(any(part in key for part in parts))
    optimiser = Optimiser(llava.named_parameters(), steps, muon=muon, adamw=1.5e-3)
    llava.train()
    with tqdm(_batches(trees, batch, steps, seed), total=steps, desc=name, unit="step", mininterval=5) as progress:
        for chosen in progress:
            forest = collate(trees, [[tree] for tree in chosen], lambda images: {"states": states[[*map(int, images)]]})
            with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):  # the quickest at this size
                logits, labels = answer_logits(llava, forest)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            optimiser.step(loss)
            progress.set_postfix(loss=f"{loss.item():.3f}", right=f"{(logits.argmax(-1) == labels).float().mean():.2f}")
    llava.eval()


def read(llava: Any, tokenizer: Any, texts: list[str], *, steps: int, batch: int, seed: int) -> None:
    """Train the language model alone to go on with plain texts."""
    for key, parameter in llava.named_parameters():
        parameter.requires_grad_(any(part in key for part in LANGUAGE))
    optimiser = Optimiser(llava.named_parameters(), steps, muon=0.02, adamw=1.5e-3)
    rng = np.random.default_rng(seed)
    with tqdm(range(steps), desc="language", unit="step", mininterval=5) as progress:
        for _ in progress:
            chosen = [texts[index] for index in rng.integers(len(texts), size=batch)]
            tokens = tokenizer(chosen, padding=True, return_tensors="pt").input_ids
            labels = tokens.masked_fill(tokens == tokenizer.pad_token_id, _IGNORED)
            with torch.autocast("cpu", torch.bfloat16):
                hidden = llava.model.language_model(input_ids=tokens, use_cache=False).last_hidden_state
                logits = llava.lm_head(hidden[:, :-1])
            loss = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED
            )
            optimiser.step(loss)
            progress.set_postfix(loss=f"{loss.item():.3f}")
