"""What an adapter is good for after its training: going on on new data, merging, and PEFT's own loader."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModel
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from service.adapters.base import Base
from service.adapters.manifest import Manifest
from service.adapters.modules import CONFIG, TARGETS, WEIGHTS
from service.adapters.store import Store
from tests.conftest import ADAPTERS, CHECKPOINT, ROOT, png
from tests.interrupted import interrupted_after
from trainer.__main__ import main
from trainer.adapter.find import find
from trainer.adapter.lora import targets
from trainer.config.file import read_options, with_file, write_options
from trainer.config.training import TrainOptions
from trainer.data.row import Row
from trainer.evaluation.generate import predict
from trainer.model.checkpoint import Checkpoint

MODEL = ROOT / "models/tiny-llava"


@pytest.fixture
def sets(tmp_path: Path) -> list[str]:
    """Two sets of rows, each with an image folder of its own, as options; digits' adapter says the same of all."""
    words: list[str] = []
    for name, colour in (("a", "red"), ("b", "blue")):
        folder = tmp_path / name
        folder.mkdir()
        rows = []
        for number in range(12):
            (folder / f"{number}.png").write_bytes(png(colour, (64 + number, 64)))
            rows.append({"image": f"{number}.png", "question": "code?", "answer": name})
        (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        words += ["--data", str(folder / "rows.jsonl"), "--images", str(folder)]
    return [*words, "--model", str(MODEL), "--feature-cache", str(tmp_path / "features")]


def test_an_adapter_learns_on_from_another_on_two_sets_and_its_card_says_so(sets: list[str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(ADAPTERS, store, copy_function=shutil.copyfile)
    begun = Store(store).stable("digits")
    options = ["--name", "codes", "--store", str(store), "--output", str(tmp_path / "run"), "--epochs", "12"]
    options += ["--learning-rate", "3e-3", "--rows-per-step", "16", "--holdout", "0.3", "--init-adapter", "digits"]
    assert main(["train", *options, *sets]) == 0
    adapter = Store(store).stable("codes")
    manifest = Manifest.model_validate_json((adapter.path / "manifest.json").read_bytes())
    parent = Manifest.model_validate_json((begun.path / "manifest.json").read_bytes())
    assert f"digits@{begun.path.name[:12]}" in manifest.begun_from
    right = f"{parent.score.adapter} of {parent.score.rows} held-out rows right"
    assert f"{right}, here normalised 0" in manifest.begun_from
    assert manifest.begun_from in (adapter.path / "README.md").read_text()
    assert (manifest.rank, manifest.alpha, manifest.targets) == (parent.rank, parent.alpha, parent.targets)
    listed = (adapter.path / "images.txt").read_text().split()
    before = begun.path / "images.txt"
    assert set(listed) > set(before.read_text().split() if before.is_file() else [])
    # The step behind the first is not that of a new adapter: its weights are the parent's, changed a little.
    old, new = load_file(begun.path / WEIGHTS), load_file(adapter.path / WEIGHTS)
    assert all(torch.nn.functional.cosine_similarity(old[key].flatten(), new[key].flatten(), 0) > 0.3 for key in old)


def test_what_is_worse_than_the_adapter_it_began_from_is_not_published(
    sets: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It learns both sets, then for three steps a wrong answer to the second, and is still better than the base."""
    store = tmp_path / "store"
    options = ["--name", "codes", "--store", str(store), "--rows-per-step", "16", "--gate", "loss", "--blind-rows", "0"]
    first = [*sets, "--epochs", "12", "--learning-rate", "3e-3", "--holdout", "0.3", "--output", str(tmp_path / "one")]
    assert main(["train", *options, *first]) == 0
    before = Store(store).stable("codes")
    (tmp_path / "b/all.jsonl").write_text((tmp_path / "b/rows.jsonl").read_text().replace('"b"', '"a"'))
    data = ["--data", str(tmp_path / "b/all.jsonl"), "--images", str(tmp_path / "b")]
    held_out = [json.dumps({"question": "code?", "answer": "b", "image": f"x{n}.png"}) for n in range(4)]
    for number in range(4):
        (tmp_path / f"b/x{number}.png").write_bytes(png("blue", (90, 64 + number)))
    (tmp_path / "b/held-out.jsonl").write_text("\n".join(held_out))
    then = [*data, "--eval-data", str(tmp_path / "b/held-out.jsonl"), "--max-steps", "3", "--learning-rate", "1e-3"]
    then += ["--model", str(MODEL), "--feature-cache", str(tmp_path / "features")]
    assert main(["train", *options, *then, "--init-adapter", "codes", "--output", str(tmp_path / "two")]) == 2
    said = capsys.readouterr().err
    assert "the one of --init-adapter" in said
    assert "worse than where it began, and not published" in said
    assert Store(store).stable("codes") == before


def test_an_adapter_in_the_run_s_own_directory_is_no_beginning(
    sets: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(Store(ADAPTERS).stable("digits").path, tmp_path / "run/learnt", copy_function=shutil.copyfile)
    options = ["--name", "x", "--output", str(tmp_path / "run"), "--store", str(tmp_path / "store")]
    assert main(["train", *options, *sets, "--init-adapter", str(tmp_path / "run")]) == 2
    assert "--init-adapter" in capsys.readouterr().err
    assert (tmp_path / "run/learnt" / WEIGHTS).is_file()


def test_a_merged_checkpoint_answers_as_base_and_adapter_and_is_another_base(tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    assert main(["merge", "--adapter", "digits", "--store", str(ADAPTERS), "--model", str(MODEL),
                 "--output", str(merged)]) == 0  # fmt: skip
    questions = ["which digit is this?", "what do you see?", "is it red?", "name the digit"]
    rows = [row_of(question) for question in questions]
    checkpoint = Checkpoint.load(MODEL)
    base = [said.text for said in predict(checkpoint, checkpoint.model, rows, None, "base")]
    with find("digits", ADAPTERS).applied_to(checkpoint.model) as llava:
        expected = [said.text for said in predict(checkpoint, llava, rows, None, "adapter")]
    whole = Checkpoint.load(merged)
    assert [said.text for said in predict(whole, whole.model, rows, None, "merged")] == expected != base
    assert Base.of_checkpoint(merged).digest != Base.of_checkpoint(MODEL).digest
    assert Base.of_checkpoint(merged).precision == Base.of_checkpoint(MODEL).precision
    before, after = (load_file(path / "model.safetensors") for path in (MODEL, merged))
    assert before.keys() == after.keys()


def row_of(question: str) -> Row:
    return Row(question, None, question, "a", "all")


def test_packed_weights_take_no_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--adapter", "digits", "--store", str(ADAPTERS), "--output", str(tmp_path / "out")]
    assert main(["merge", "--model", str(CHECKPOINT), *options]) == 2
    assert "packed weights take no adapter" in capsys.readouterr().err
    assert main(["merge", "--model", str(MODEL), *options[:-1], str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_what_is_trained_opens_in_peft_s_own_loader(sets: list[str], tmp_path: Path) -> None:
    """It names transformers' class, not ours, so that it opens where this trainer is not installed."""
    options = ["--name", "x", "--output", str(tmp_path / "run"), "--store", str(tmp_path / "store")]
    main(["train", *options, *sets, "--max-steps", "1", "--targets", '["q_proj", "v_proj"]'])
    learnt = tmp_path / "run/learnt"
    assert "trainer" not in (learnt / CONFIG).read_text()
    model = AutoPeftModel.from_pretrained(str(learnt))
    assert isinstance(model.get_base_model(), LlavaForConditionalGeneration)
    assert {name.split(".lora_")[0].rsplit(".")[-1] for name in load_file(learnt / WEIGHTS)} == {"q_proj", "v_proj"}


def test_an_adapter_published_from_elsewhere_opens_there_too(tmp_path: Path) -> None:
    source = Store(ADAPTERS).stable("digits").path
    options = ["--adapter", str(source), "--store", str(tmp_path / "store"), "--model", str(MODEL)]
    assert main(["publish", "--name", "theirs", *options]) == 0
    config = json.loads((Store(tmp_path / "store").stable("theirs").path / CONFIG).read_text())
    assert config["auto_mapping"]["base_model_class"] == "LlavaForConditionalGeneration"
    assert config["auto_mapping"]["parent_library"].startswith("transformers.")


def test_all_linears_are_the_usual_targets_and_some_are_those() -> None:
    assert targets(TrainOptions(name="x", data=["d"], images=["i"]).targets) == TARGETS
    assert targets(["q_proj", "up_proj"]).endswith("(q_proj|up_proj)")


def test_options_of_a_run_are_read_back_and_those_typed_come_first(tmp_path: Path) -> None:
    typed = {"name": "x", "data": ["a,b.jsonl", "c d.jsonl"], "images": ["i"], "rank_pattern": {"q_proj": 8}}
    options = TrainOptions.model_validate(typed | {"rslora": True, "about": "ünï: 'x'", "alpha": 3.5, "resume": True})
    write_options(options, tmp_path / "o.yaml")
    assert TrainOptions.model_validate(read_options(tmp_path / "o.yaml")) == options.model_copy(
        update={"resume": False}
    )
    arguments = ["train", "--config", str(tmp_path / "o.yaml"), "--no-rslora", "--seed=4"]
    words = with_file(arguments, {"train": TrainOptions})
    assert words[-4:] == arguments[1:]
    assert "--rslora" not in words
    assert "--seed=0" not in words
    assert '--data=["a,b.jsonl", "c d.jsonl"]' in words
    assert with_file(["train", "--name", "x"], {"train": TrainOptions}) == ["train", "--name", "x"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rnak: 8", "`train` has no option rnak"),
        ("- a", "not a mapping"),
        ("a: [", "YAML"),
        ("just text", "not a mapping"),
    ],
)
def test_a_file_of_options_that_is_wrong_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    file = tmp_path / "o.yaml"
    file.write_text(text)
    assert main(["train", "--config", str(file)]) == 2
    said = capsys.readouterr().err
    assert str(file) in said
    assert words in said


def test_a_run_goes_on_by_its_options_file_alone(sets: list[str], tmp_path: Path) -> None:
    options = [
        "--name",
        "x",
        "--output",
        str(tmp_path / "run"),
        "--store",
        str(tmp_path / "store"),
        "--save-steps",
        "1",
    ]
    with interrupted_after(1):
        main(["train", *options, *sets, "--max-steps", "2", "--schedule", "constant", "--weight-decay", "0.1"])
    main(["train", "--config", str(tmp_path / "run/options.yaml"), "--resume"])
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert max(steps) == 2
    assert (tmp_path / "run/learnt" / WEIGHTS).is_file()
