"""Stages 1 to 3: the language model learns to talk, the projector to show it pictures, then both to answer.

LLaVA starts from a language model that talks already; ours is new, so it first reads the questions and answers as
plain text. Then LLaVA's two stages: the projector alone on captions, then projector and language model on questions.
The tower stays as it was taught, so its states are computed once per scene.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.questions import Asked, ask
from models.scenes import Scene, draw
from models.tower import PREPARATION, normalise
from service.prompt import Prompt
from trainer.batches import IGNORED, Batch, Tree, collate, grow
from trainer.data.rows import Row
from trainer.model import answer_logits

QUESTIONS = 10
# Scenes are numbered: training counts from 0, these begin where it never comes.
CALIBRATION, HELD_OUT = 10_000_000, 20_000_000


@dataclass(frozen=True)
class Lessons:
    """Scenes as the tower sees them, (scenes, patches, hidden size) in float16, and their questions."""

    states: Tensor
    asked: list[list[Asked]]


class CachedPrompt(Prompt):
    """The scenes' questions come from a few thousand sentences: each is tokenised once."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self.encode = cache(super().encode)  # type: ignore[method-assign]
        self.encode_answer = cache(super().encode_answer)  # type: ignore[method-assign]


def numbered_scene(seed: int, number: int) -> tuple[Scene, list[Asked]]:
    """The scene of that number and its questions, always the same; see HELD_OUT and CALIBRATION for the far ones."""
    rng = np.random.default_rng((seed, 1, number))
    scene = draw(rng)
    return scene, ask(scene, rng, QUESTIONS)


def prepare_lessons(tower: Any, seed: int, first: int, scenes: int) -> Lessons:
    """Draw the scenes numbered from `first` and run the tower over them."""
    asked, states = [], []
    last = first + scenes
    for start in tqdm(range(first, last, 256), desc="scenes", unit="batch", mininterval=5):
        drawn = [numbered_scene(seed, number) for number in range(start, min(start + 256, last))]
        asked += [questions for _, questions in drawn]
        pixels = torch.from_numpy(np.stack([np.asarray(PREPARATION.apply(scene.image)) for scene, _ in drawn]))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            hidden = tower(pixel_values=normalise(pixels), output_hidden_states=True).hidden_states[-2][:, 1:]
        states.append(hidden.half())
    return Lessons(torch.cat(states), asked)


def _trees(lessons: Lessons, prompt: Prompt, categories: set[str] | None, tokens: int) -> list[Tree]:
    rows = [
        Row(str(number), f"{number:07}", each.question, each.answer, each.category)
        for number, questions in enumerate(lessons.asked)
        for each in questions
        if categories is None or each.category in categories
    ]
    return grow(rows, prompt, tokens, QUESTIONS)


def _batches(trees: list[Tree], size: int, steps: int, seed: int) -> Iterator[list[Tree]]:
    """Shuffled batches of trees of like length, as many as asked for."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(trees))
        for chunk in np.array_split(order, max(1, len(order) // (size * 16))):
            ranked = sorted(chunk, key=lambda index: len(trees[index].token_ids))
            for start in rng.permutation(range(0, len(ranked), size)):
                yield [trees[index] for index in ranked[start : start + size]]
                steps -= 1
                if not steps:
                    return


def learn(
    llava: Any, prompt: Prompt, lessons: Lessons, *, name: str, parts: tuple[str, ...], steps: int, batch: int,
    rate: float, seed: int, captions: bool = False,
) -> None:  # fmt: skip
    """Train the named parts of `llava` to answer the lessons' questions; all others stay as they are."""
    for key, parameter in llava.named_parameters():
        parameter.requires_grad_(any(part in key for part in parts))
    trained = [parameter for parameter in llava.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.06)
    trees = _trees(
        lessons, prompt, {"caption", "number", "digit", "chart"} if captions else None, lessons.states.shape[1]
    )
    llava.train()
    with tqdm(_batches(trees, batch, steps, seed), total=steps, desc=name, unit="step", mininterval=5) as progress:
        for chosen in progress:
            states = lessons.states[[int(tree.image or 0) for tree in chosen]].float()
            with torch.autocast("cpu", torch.bfloat16):
                features = llava.model.multi_modal_projector(states).flatten(0, 1)
                logits, labels = answer_logits(llava, replace(_collate(chosen, prompt), features=features))
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            schedule.step()
            progress.set_postfix(loss=f"{loss.item():.3f}", right=f"{(logits.argmax(-1) == labels).float().mean():.2f}")
    llava.eval()


def _collate(trees: list[Tree], prompt: Prompt) -> Batch:
    """The batch without its features: those go through the projector inside the step."""
    blank = dict.fromkeys([tree.image for tree in trees], torch.empty(0, 1))
    return collate(trees, blank, prompt.pad_token_id)  # type: ignore[arg-type]


def read(llava: Any, tokenizer: Any, texts: list[str], *, steps: int, batch: int, rate: float, seed: int) -> None:
    """Train the language model alone to go on with plain texts."""
    language = [*llava.model.language_model.parameters(), *llava.lm_head.parameters()]
    optimiser = torch.optim.AdamW(language, lr=rate, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    rng = np.random.default_rng(seed)
    with tqdm(range(steps), desc="language", unit="step", mininterval=5) as progress:
        for _ in progress:
            chosen = [texts[index] for index in rng.integers(len(texts), size=batch)]
            tokens = tokenizer(chosen, padding=True, return_tensors="pt").input_ids
            labels = tokens.masked_fill(tokens == tokenizer.pad_token_id, IGNORED)
            with torch.autocast("cpu", torch.bfloat16):
                hidden = llava.model.language_model(input_ids=tokens, use_cache=False).last_hidden_state
                logits = llava.lm_head(hidden[:, :-1])
            loss = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            progress.set_postfix(loss=f"{loss.item():.3f}")
