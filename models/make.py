"""`python -m models.make`: the embedded model from its seed, stage by stage; a killed run goes on after its last stage.

    0 tower     a CLIP tower learns what each patch of drawn scenes lies on     build/model/tower.pt
    1 language  a tokenizer, and a Llama that has read the questions            build/model/language/
    2 aligned   LLaVA's stage 1: the projector alone, on captions               build/model/aligned/
    3 tuned     LLaVA's stage 2: projector and language model, on questions     build/model/tuned/
                again, on other scenes, the rate rising and falling once more   models/tiny-llava/
    4 int4      GPTQ to W4A16                                                   models/tiny-llava-int4/

Only drawn scenes are seen: no easy-VQA picture, no handwritten digit.
"""

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from models import checkpoint, recipe
from models.quantize import quantize
from models.stages import CachedPrompt, Lessons, learn, numbered_scene, prepare_lessons, read
from models.tokenizer import train_tokenizer
from models.tower import load_tower, train_tower

log = logging.getLogger(__name__)


class Make(BaseSettings):
    """Make the embedded model again: about forty minutes on 2 cores."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_MAKE_", cli_kebab_case=True, cli_prog_name="python -m models.make"
    )

    seed: int = Field(0, description="everything drawn and learnt follows from it")
    work: Path = Field(Path("build/model"), description="where finished stages are kept")
    output: Path = Field(Path("models"), description="where tiny-llava and tiny-llava-int4 go")
    tower_steps: int = Field(1200, gt=0, description="batches of 128 new scenes for the tower")
    scenes: int = Field(40_000, gt=0, description="scenes that the first round asks about; the second has half as many")
    tuning_steps: tuple[int, int] = Field((1200, 1400), description="batches of 24 scenes in the rounds of stage 2")


def make(options: Make) -> None:
    """Run every stage that has not run."""
    options.work.mkdir(parents=True, exist_ok=True)
    tower = options.work / "tower.pt"
    if not tower.exists():
        train_tower(options.tower_steps, 128, options.seed, tower.with_suffix(".part"))
        tower.with_suffix(".part").rename(tower)
    _stage(options.work / "language", lambda target: _language(options, tower, target))
    first, second = options.work / "tuned", options.output / "tiny-llava"
    if not first.exists():
        lessons = _lessons(options, tower, 0, options.scenes)
        _stage(options.work / "aligned", lambda target: _align(options, lessons, target))
        _stage(first, lambda target: _tune(options, 0, lessons, options.work / "aligned", target))
    if not second.exists():
        more = _lessons(options, tower, options.scenes, options.scenes // 2)
        _stage(second, lambda target: _tune(options, 1, more, first, target))
    _stage(
        options.output / "tiny-llava-int4",
        lambda target: quantize(options.output / "tiny-llava", target, options.seed, scenes=512),
    )


def _stage(target: Path, run: Callable[[Path], None]) -> None:
    """Run a stage into a directory that appears only when it is complete."""
    if target.exists():
        log.info("%s is there", target)
        return
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    run(part)
    part.rename(target)


def _language(options: Make, tower: Path, target: Path) -> None:
    asked = [each for number in range(20_000) for each in numbered_scene(options.seed, number)[1]]
    texts = [f"USER: {each.question} ASSISTANT: {each.answer}" for each in asked]
    tokenizer = train_tokenizer(texts)
    torch.manual_seed(options.seed)
    llava = LlavaForConditionalGeneration(recipe.llava_config())
    llava.model.vision_tower.load_state_dict(load_tower(tower, options.seed).state_dict())
    read(llava, tokenizer, [f"{text}</s>" for text in texts], steps=200, batch=128, rate=2e-3, seed=options.seed)
    checkpoint.save(llava, tokenizer, target)


def _align(options: Make, lessons: Lessons, target: Path) -> None:
    source = options.work / "language"
    llava, prompt = _load(source)
    learn(
        llava, prompt, lessons, name="stage 1", parts=("multi_modal_projector",), captions=True,
        steps=100, batch=32, rate=2e-3, seed=options.seed,
    )  # fmt: skip
    checkpoint.save(llava, AutoTokenizer.from_pretrained(source), target)


def _lessons(options: Make, tower: Path, first: int, scenes: int) -> Lessons:
    return prepare_lessons(load_tower(tower, options.seed), options.seed, first, scenes)


def _tune(options: Make, round_: int, lessons: Lessons, source: Path, target: Path) -> None:
    llava, prompt = _load(source)
    learn(
        llava, prompt, lessons, name="stage 2", parts=("multi_modal_projector", "language_model", "lm_head"),
        steps=options.tuning_steps[round_], batch=24, rate=1.5e-3, seed=options.seed,
    )  # fmt: skip
    checkpoint.save(llava, AutoTokenizer.from_pretrained(source), target)


def _load(directory: Path) -> tuple[LlavaForConditionalGeneration, CachedPrompt]:
    return LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32), CachedPrompt(directory)


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(message)s")
    make(CliApp.run(Make, cli_args=sys.argv[1:]))
