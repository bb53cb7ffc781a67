"""`--recipe NAME` is a file of options under trainer/recipes/: it is read, printed and changed; what is typed wins."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from trainer.__main__ import main
from trainer.config.file import with_file
from trainer.config.recipes import recipe, recipe_text, recipes
from trainer.config.training import TrainOptions
from trainer.errors import OptionError

KNOWN = {"train": TrainOptions}
ASKED = ["--name", "x", "--data", "rows.jsonl"]


def options(*words: str) -> dict[str, Any]:
    """What a command line comes to, by option."""
    made = with_file(["train", *ASKED, *words], KNOWN)
    return dict(word.removeprefix("--").split("=") for word in made if "=" in word)


@pytest.mark.parametrize("name", recipes())
def test_each_says_whose_it_is_and_holds_options_of_train(name: str) -> None:
    text = recipe(name).read_text()
    assert re.match(r"# .{40,}", text)
    values = yaml.safe_load(text)
    made = TrainOptions(name="x", data=["rows.jsonl"], **values)
    assert {key: made.model_dump(mode="json")[key] for key in values} == values


def test_what_is_typed_comes_before_a_file_and_a_file_before_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("alpha: 32\nlearning_rate: 5.0e-5")
    assert options("--recipe", "domain")["rank"] == "64"
    found = options("--recipe=scaling-study", "--config", str(file), "--learning-rate=1e-3")
    assert (found["rank"], found["alpha"], found["learning-rate"]) == ("64", "32", "1e-3")


def test_an_unknown_one_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *ASKED, "--recipe", "domian"]) == 2
    assert "--recipe domian: no such recipe (did you mean domain?); there are domain," in capsys.readouterr().err


def test_other_commands_have_none() -> None:
    words = ["evaluate", "--recipe", "domain"]
    assert with_file(words, {"evaluate": TrainOptions.__mro__[1]}) == words


def test_they_are_printed_all_or_one_as_its_file_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--name", "domain"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(recipe("domain").read_text())
    assert main(["recipes"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name}\n\n    # " in printed for name in recipes())
    with pytest.raises(OptionError, match="--name other: no such recipe"):
        recipe_text("other")


@pytest.mark.slow
@pytest.mark.timeout(3600)  # one trains in bfloat16, which many processors have no products for
@pytest.mark.parametrize("name", recipes())
def test_each_trains_an_adapter_of_the_embedded_model(name: str, codes: Path, tmp_path: Path) -> None:
    colours = ("red", "green", "blue", "black", "orange", "purple")
    texts = [{"question": f"{how} {each}?", "answer": each} for how in ("name", "say", "word") for each in colours]
    file = tmp_path / "both.jsonl"  # `lavin` is for rows with images and rows of text
    file.write_text("\n".join([(codes / "train.jsonl").read_text(), *map(json.dumps, texts)]))
    paths = ["--data", str(file), "--images", str(codes), "--output", str(tmp_path / "run")]
    places = ["--store", str(tmp_path / "store"), "--feature-cache", str(tmp_path / "features")]
    # The recipes' rates are of the 7B: so small a base learns at more, and in more passes.
    how = [
        "--model",
        str(ROOT / "models/tiny-llava"),
        "--learning-rate",
        "3e-3",
        "--epochs",
        "12",
        "--rows-per-step",
        "10",
    ]
    assert main(["train", "--name", name, "--recipe", name, *paths, *places, *how]) == 0
    manifest = json.loads(next((tmp_path / "store").glob(f"{name}/versions/*/manifest.json")).read_text())
    assert manifest["rank"] >= yaml.safe_load(recipe(name).read_text())["rank"]
    assert manifest["score"]["adapter"] > manifest["score"]["base"]
