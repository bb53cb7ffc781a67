"""`python -m models.make`: the embedded model from its seed, stage by stage; a killed run goes on after its last stage.

    0 tower     a CLIP tower learns what each patch of drawn scenes lies on     build/model/tower.pt
    1 language  a tokenizer, and a Llama that has read the questions            build/model/language/
    2 aligned   LLaVA's stage 1: the projector alone, on captions               build/model/aligned/
    3 alone     LLaVA's stage 2: projector and language model, on questions
                about scenes of one thing                                       build/model/alone/
      all       about all scenes                                                build/model/all/
      compared  on other scenes of one thing: is this in the picture?           build/model/compared/
      negated   on the same: each thing asked for with and without a "not"      build/model/negated/
      tuned     about all of those                                              models/tiny-llava/
    4 int4      GPTQ to W4A16, as `trainer quantize` does                        models/tiny-llava-int4/

Only drawn scenes are used: no easy-VQA picture, no handwritten digit.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from models import checkpoint, recipe
from models.questions import SceneQuestion
from models.stages import (
    CALIBRATION,
    LANGUAGE,
    PROJECTOR,
    CachedPrompt,
    Lessons,
    learn,
    numbered_scene,
    prepare_lessons,
    read,
    start_projector,
    trees_of,
)  # fmt: skip
from models.tokenizer import train_tokenizer
from models.tower import PREPARATION, load_tower, train_tower
from trainer.model.checkpoint_files import new_directory
from trainer.model.quantize import Sample, write_int4

log = logging.getLogger(__name__)
# Peak rates of the parts of stage 2: `compared` and `tuned` at half.
_MUON = (0.02, 0.02, 0.01, 0.02, 0.01)


class Make(BaseSettings):
    """Make the embedded model again: about an hour on 2 cores."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_MAKE_", cli_kebab_case=True, cli_prog_name="python -m models.make"
    )

    seed: int = Field(0, description="everything drawn and learnt follows from it")
    work: Path = Field(Path("build/model"), description="where finished stages are kept")
    output: Path = Field(Path("models"), description="where tiny-llava and tiny-llava-int4 go")
    tower_steps: int = Field(1200, gt=0, description="batches of 128 new scenes for the tower")
    scenes: int = Field(40_000, gt=0, description="scenes that are asked about")
    more_scenes: int = Field(20_000, gt=0, description="other scenes, for the last three parts of stage 2")
    tuning_steps: tuple[int, int, int, int, int] = Field(
        (1000, 2000, 500, 1200, 500), description="batches of 16 scenes in the parts of stage 2"
    )


def make(options: Make) -> None:
    """Run every stage that has not run."""
    options.work.mkdir(parents=True, exist_ok=True)
    tower = options.work / "tower.pt"
    if not tower.exists():
        train_tower(options.tower_steps, 128, options.seed, tower.with_suffix(".part"))
        tower.with_suffix(".part").rename(tower)
    language, aligned, alone, all_, compared, negated = (
        options.work / name for name in ("language", "aligned", "alone", "all", "compared", "negated")
    )
    tuned, packed = options.output / "tiny-llava", options.output / "tiny-llava-int4"
    _stage(language, lambda target: _language(options, tower, target))
    if not all_.exists():
        lessons = prepare_lessons(load_tower(tower, options.seed), options.seed, 0, options.scenes)
        _stage(aligned, lambda target: _align(options, lessons, language, target))
        single = _alone(lessons, {"color", "shape", "yes-no", "negation"})
        _stage(alone, lambda target: _tune(options, 0, lessons, single, aligned, target))
        _stage(all_, lambda target: _tune(options, 1, lessons, lessons.asked, alone, target))
    if not tuned.exists():
        more = prepare_lessons(load_tower(tower, options.seed), options.seed, options.scenes, options.more_scenes)
        presence = _alone(more, {"yes-no", "negation"})
        _stage(compared, lambda target: _tune(options, 2, more, presence, all_, target))
        _stage(negated, lambda target: _tune(options, 3, more, more.pairs, compared, target))
        _stage(tuned, lambda target: _tune(options, 4, more, more.asked, negated, target))
    if not packed.exists():
        write_int4(tuned, packed, _samples(options.seed), group_size=32)


def _stage(target: Path, run: Callable[[Path], None]) -> None:
    """Run a stage into a directory that appears only when it is complete."""
    if target.exists():
        log.info("%s is there", target)
        return
    with new_directory(target) as part:
        run(part)


def _language(options: Make, tower: Path, target: Path) -> None:
    asked = [each for number in range(20_000) for each in numbered_scene(options.seed, number)[1]]
    texts = [f"USER: {each.question} ASSISTANT: {each.answer}" for each in asked]
    tokenizer = train_tokenizer(texts)
    torch.manual_seed(options.seed)
    llava = LlavaForConditionalGeneration(recipe.llava_config())
    llava.model.vision_tower.load_state_dict(load_tower(tower, options.seed).state_dict())
    read(llava, tokenizer, [f"{text}</s>" for text in texts], steps=200, batch=128, seed=options.seed)
    checkpoint.save(llava, tokenizer, target)


def _align(options: Make, lessons: Lessons, source: Path, target: Path) -> None:
    llava, prompt = _load(source)
    torch.manual_seed(options.seed)
    start_projector(llava.model.multi_modal_projector, lessons.states)
    trees = trees_of(lessons, prompt, [_of(asked, {"caption", "number", "digit", "chart"}) for asked in lessons.asked])
    learn(llava, lessons.states, trees, name="stage 1", parts=PROJECTOR, steps=100, seed=options.seed)
    checkpoint.save(llava, AutoTokenizer.from_pretrained(source), target)


def _tune(
    options: Make, part: int, lessons: Lessons, asked: list[list[SceneQuestion]], source: Path, target: Path
) -> None:
    """A part of stage 2: projector and language model."""
    llava, prompt = _load(source)
    learn(
        llava, lessons.states, trees_of(lessons, prompt, asked), name=f"stage 2.{part}",
        parts=PROJECTOR + LANGUAGE, steps=options.tuning_steps[part], seed=options.seed,
        muon=_MUON[part],
    )  # fmt: skip
    checkpoint.save(llava, AutoTokenizer.from_pretrained(source), target)


def _alone(lessons: Lessons, categories: set[str]) -> list[list[SceneQuestion]]:
    """What is asked about scenes of one thing, which are those that have pairs."""
    both = zip(lessons.asked, lessons.pairs, strict=True)
    return [_of(asked, categories) if pairs else [] for asked, pairs in both]


def _of(asked: list[SceneQuestion], categories: set[str]) -> list[SceneQuestion]:
    return [each for each in asked if each.category in categories]


def _samples(seed: int) -> list[Sample]:
    """Calibration: a question about each of 512 scenes that no stage was taught."""
    drawn = (numbered_scene(seed, CALIBRATION + number) for number in range(512))
    return [Sample(PREPARATION.apply(scene.image), asked[0].question, asked[0].answer) for scene, asked in drawn]


def _load(directory: Path) -> tuple[LlavaForConditionalGeneration, CachedPrompt]:
    return LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32), CachedPrompt(directory)


if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="%(message)s")
    make(CliApp.run(Make, cli_args=sys.argv[1:]))
