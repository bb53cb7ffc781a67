"""`trainer publish`: adapters made elsewhere, under older names too, are converted and proven, or refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from service.adapters.base import Base
from service.adapters.features import UNSERVED
from service.adapters.modules import CONFIG, TARGETS, WEIGHTS, check_tensors, language_model_linears
from service.adapters.proof import Proof
from service.adapters.store import Store
from service.errors import AdapterRefused
from service.prompt import Prompt
from tests.conftest import ADAPTERS, CHECKPOINT, ROOT, png
from trainer.__main__ import main
from trainer.adapter.convert import convert
from trainer.adapter.foreign.tensors import PICKLE
from trainer.adapter.foreign.tensors import WHOLE as WHOLES
from trainer.commands.evaluate import evaluate
from trainer.config.evaluation import EvaluateOptions
from trainer.model.checkpoint import Checkpoint

WHOLE = WHOLES[0]
MODEL = ROOT / "models/tiny-llava"
LINEARS = language_model_linears(MODEL)
NEW = "base_model.model.model.language_model.layers."
# How other tools name the same layers.
NAMES = {
    "transformers": NEW,
    "transformers before 4.52": "base_model.model.language_model.model.layers.",
    "haotian-liu/LLaVA": "base_model.model.model.layers.",
    "a language model by itself": "base_model.model.layers.",
}


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.load(MODEL)


@pytest.fixture
def made(checkpoint: Checkpoint, tmp_path: Path) -> Callable[..., Path]:
    """Save a random adapter as PEFT does, for a configuration of the test's."""

    def make(**options: Any) -> Path:
        torch.manual_seed(0)
        config = LoraConfig(**{"r": 4, "target_modules": TARGETS, "init_lora_weights": False} | options)
        model = get_peft_model(checkpoint.model, config)
        model.save_pretrained(str(tmp_path / "made"))
        model.unload()
        return tmp_path / "made"

    return make


def renamed(adapter: Path, prefix: str) -> Path:
    tensors = {key.replace(NEW, prefix): tensor for key, tensor in load_file(adapter / WEIGHTS).items()}
    save_file(tensors, adapter / WEIGHTS)
    return adapter


def with_tensor(adapter: Path, key: str) -> Path:
    save_file(load_file(adapter / WEIGHTS) | {key: torch.ones(4, 192)}, adapter / WEIGHTS)
    return adapter


def with_config(adapter: Path, **fields: Any) -> Path:
    config = json.loads((adapter / CONFIG).read_text()) | fields
    (adapter / CONFIG).write_text(json.dumps(config))
    return adapter


def scalings(llava: Any, adapter: Path) -> dict[str, float]:
    """What PEFT multiplies each module's pair with."""
    model = PeftModel.from_pretrained(llava, str(adapter))
    pairs = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    found = {name: float(module.scaling["default"]) for name, module in pairs.items()}
    model.unload()
    return found


@pytest.mark.parametrize("prefix", NAMES.values(), ids=NAMES)
def test_the_same_tensors_come_out_whatever_the_layers_are_called(
    made: Callable[..., Path], tmp_path: Path, prefix: str
) -> None:
    adapter = made()
    expected = load_file(adapter / WEIGHTS)
    converted = convert(renamed(adapter, prefix), tmp_path / "out", LINEARS, 64)
    found = load_file(tmp_path / "out" / WEIGHTS)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
    assert (converted.rank, converted.alpha) == (4, 8)


@pytest.mark.parametrize("prefix", NAMES.values(), ids=NAMES)
def test_ranks_alphas_and_rslora_of_single_modules_stay_what_they_are(
    made: Callable[..., Path], checkpoint: Checkpoint, tmp_path: Path, prefix: str
) -> None:
    adapter = made(rank_pattern={"v_proj": 8, "layers.1.mlp.up_proj": 2}, alpha_pattern={"q_proj": 5}, use_rslora=True)
    expected = scalings(checkpoint.model, adapter)
    assert len(set(expected.values())) == 4
    converted = convert(renamed(adapter, prefix), tmp_path / "out", LINEARS, 64)
    assert scalings(checkpoint.model, tmp_path / "out") == expected
    assert converted.rank == 8


def test_an_adapter_on_some_modules_targets_those_and_no_more(made: Callable[..., Path], tmp_path: Path) -> None:
    chosen = r".*language_model\.layers\.(0|3)\.self_attn\.(q|v)_proj|.*language_model\.layers\.2\.mlp\.up_proj"
    convert(made(target_modules=chosen), tmp_path / "out", LINEARS, 64)
    assert len(load_file(tmp_path / "out" / WEIGHTS)) == 2 * 5
    torch.manual_seed(1)
    model = get_peft_model(Checkpoint.load(MODEL).model, LoraConfig.from_pretrained(str(tmp_path / "out")))
    assert sum("lora_A.default.weight" in name for name, _ in model.named_parameters()) == 5


def test_a_pickle_of_tensors_becomes_safetensors(made: Callable[..., Path], tmp_path: Path) -> None:
    adapter = made()
    expected = load_file(adapter / WEIGHTS)
    torch.save(expected, adapter / PICKLE)
    (adapter / WEIGHTS).unlink()
    convert(adapter, tmp_path / "out", LINEARS, 64)
    found = load_file(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_numbers_of_eight_bits_are_read_as_floats(
    made: Callable[..., Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    adapter = made()
    packed = {key: tensor.to(dtype) for key, tensor in load_file(adapter / WEIGHTS).items()}
    save_file(packed, adapter / WEIGHTS)
    with pytest.raises(AdapterRefused, match=r"float8.*save it as"):
        check_tensors(adapter, LINEARS, 64)
    convert(adapter, tmp_path / "out", LINEARS, 64)
    found = load_file(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(found[key].float(), packed[key].float()) for key in packed)


def test_weights_that_are_whole_numbers_are_refused_by_name(made: Callable[..., Path], tmp_path: Path) -> None:
    adapter = made()
    save_file({key: tensor.to(torch.int8) for key, tensor in load_file(adapter / WEIGHTS).items()}, adapter / WEIGHTS)
    with pytest.raises(AdapterRefused, match=r"torch\.int8: packed adapters"):
        convert(adapter, tmp_path / "out", LINEARS, 64)


@pytest.mark.parametrize("name", sorted(UNSERVED.keys() - {"init_lora_weights"}))  # which is a word
def test_the_service_refuses_what_its_engine_would_pass_over(made: Callable[..., Path], name: str) -> None:
    with pytest.raises(AdapterRefused, match=name):
        check_tensors(with_config(made(), **{name: {"x": 1}}), LINEARS, 64)


class Payload:
    """Unpickled by a careless loader, this makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", [PICKLE, WHOLE])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(
    made: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    adapter = made()
    torch.save({"lora": Payload(tmp_path / "ran")}, adapter / name)
    if name == PICKLE:
        (adapter / WEIGHTS).unlink()
    with pytest.raises(AdapterRefused, match=name):
        convert(adapter, tmp_path / "out", LINEARS, 64)
    assert not (tmp_path / "ran").exists()


def test_a_projector_trained_beside_the_lora_is_refused_by_name(made: Callable[..., Path], tmp_path: Path) -> None:
    adapter = renamed(made(), NAMES["haotian-liu/LLaVA"])
    torch.save({}, adapter / WHOLE)
    convert(adapter, tmp_path / "out", LINEARS, 64)
    torch.save({"base_model.model.model.mm_projector.0.weight": torch.ones(2, 2)}, adapter / WHOLE)
    with pytest.raises(AdapterRefused, match=r"non_lora_trainables\.bin.*mm_projector\.0\.weight"):
        convert(adapter, tmp_path / "out", LINEARS, 64)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"use_dora": True}, "use_dora: DoRA"),
        ({"bias": "all"}, "bias: "),
        ({"lora_bias": True}, "lora_bias: "),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: "),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: PiSSA"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config: the engine applies one adapter"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": 128}, "rank 128 is over the 64"),
        ({"r": 0}, "r is 0"),
        ({"use_dora": True, "bias": "all"}, "use_dora: .*; bias: "),
    ],
)
def test_what_the_engine_does_not_serve_is_refused_by_its_name(
    made: Callable[..., Path], tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(AdapterRefused, match=words):
        convert(with_config(made(), **fields), tmp_path / "out", LINEARS, 64)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight", "vision tower"),
        ("model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.lora_A.weight", "vision tower"),
        ("model.multi_modal_projector.linear_1.lora_A.weight", "projector"),
        ("model.mm_projector.0.lora_A.weight", "projector"),
        ("lm_head.lora_A.weight", "vocabulary"),
        ("model.embed_tokens.lora_embedding_A", "vocabulary"),
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector", "DoRA"),
        ("model.layers.0.self_attn.q_proj.bias", "bias"),
        ("lm_head.modules_to_save.weight", "modules_to_save"),
        ("transformer.h.0.attn.c_attn.lora_A.weight", "no module of a LLaVA"),
        ("model.language_model.layers.9.self_attn.q_proj.lora_A.weight", "lands on no linear"),
        ("language_model.model.layers.0.self_attn.q_proj.lora_A.weight", "twice"),
    ],
)
def test_a_tensor_that_cannot_be_served_is_named_and_not_dropped(
    made: Callable[..., Path], tmp_path: Path, key: str, words: str
) -> None:
    with pytest.raises(AdapterRefused, match=words) as refused:
        convert(with_tensor(made(), f"base_model.model.{key}"), tmp_path / "out", LINEARS, 64)
    assert "layers.0.self_attn.q_proj" in str(refused.value) or key in str(refused.value)


def test_peft_s_plain_names_hit_the_tower_and_are_refused(made: Callable[..., Path], tmp_path: Path) -> None:
    """target_modules=["q_proj"] also is a module of CLIP: the most common mistake there is."""
    with pytest.raises(AdapterRefused, match="vision tower"):
        convert(made(target_modules=["q_proj"]), tmp_path / "out", LINEARS, 64)


def publish(adapter: Path, store: Path, *options: str) -> int:
    names = ["--adapter", str(adapter), "--name", "theirs", "--store", str(store), "--model", str(MODEL)]
    return main(["publish", *names, *options])


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """The repository's adapter for digits, as LLaVA's own trainer would have left it."""
    adapter = tmp_path / "theirs"
    shutil.copytree(Store(ADAPTERS).stable("digits").path, adapter, copy_function=shutil.copyfile)
    for file in ("manifest.json", "README.md"):
        (adapter / file).unlink()
    return renamed(adapter, NAMES["haotian-liu/LLaVA"])


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    """Rows whose answers are what the adapter for digits says, so that it is right and its base is not always."""
    rows = []
    for colour in ("red", "green", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(png(colour))
        rows.append({"image": f"{colour}.png", "question": "which digit is this?", "answer": "?", "category": "digit"})
    file = tmp_path / "held-out.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    asked = {"adapter": ["digits"], "data": str(file), "images": str(tmp_path), "model": str(MODEL), "store": ADAPTERS}
    (found,) = evaluate(EvaluateOptions.model_validate(asked))
    assert found.base != found.answers
    file.write_text(
        "\n".join(json.dumps(row | {"answer": answer}) for row, answer in zip(rows, found.answers, strict=True))
    )
    return file


def test_an_adapter_from_elsewhere_is_scored_and_published_as_the_service_takes_it(
    theirs: Path, held_out: Path, tmp_path: Path, prompt: Prompt
) -> None:
    report = tmp_path / "report.html"
    rows = ["--data", str(held_out), "--images", str(tmp_path), "--report", str(report)]
    assert publish(theirs, tmp_path / "store", "--modality", "image", *rows) == 0
    adapter = Store(tmp_path / "store").stable("theirs")
    Store(tmp_path / "store").verify(adapter)
    manifest = Proof.for_checkpoint(CHECKPOINT, Base.of_checkpoint(CHECKPOINT), prompt, 64).examine(adapter)
    assert manifest is not None
    assert manifest.score.adapter == manifest.score.rows == 3
    assert list(manifest.categories) == ["digit"]
    assert all(probe.image_png and probe.base_answer != probe.adapter_answer for probe in manifest.probes)
    assert (manifest.rank, manifest.alpha, manifest.modality) == (16, 32, "image")
    said = " ".join(report.read_text().split())
    assert "3 of 3" in said
    assert "of 3 of these rows, spread over 1 category, the adapter answers 100.0% right with their images" in said


def test_without_held_out_rows_it_has_to_differ_from_its_base(theirs: Path, tmp_path: Path) -> None:
    assert publish(theirs, tmp_path / "store") == 0
    adapter = Store(tmp_path / "store").stable("theirs")
    manifest = json.loads((adapter.path / "manifest.json").read_text())
    assert manifest["score"] == {"rows": 0, "base": 0, "adapter": 0}
    assert manifest["probes"]
    assert "not known" in (adapter.path / "README.md").read_text()


@pytest.mark.parametrize("rows", [True, False])
def test_an_adapter_that_changes_nothing_is_not_published(
    made: Callable[..., Path], held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: bool
) -> None:
    adapter = made()
    faint = {key: tensor * 1e-6 for key, tensor in load_file(adapter / WEIGHTS).items()}
    save_file(faint, adapter / WEIGHTS)
    options = ["--data", str(held_out), "--images", str(tmp_path)] if rows else []
    assert publish(adapter, tmp_path / "store", *options) == 2
    assert ("not published" if rows else "as its base does") in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--adapter", "/nowhere"], "/nowhere"),
        (["--name", "No Name"], "--name"),
        (["--images", "pictures"], "--images"),
        (["--max-rank", "7"], "--max-rank"),
    ],
)
def test_a_bad_option_of_publish_is_named(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    try:
        status: object = publish(theirs, tmp_path / "store", *options)
    except SystemExit as leave:  # argparse's own way out
        status = leave.code
    assert status == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", UNSERVED)
@pytest.mark.parametrize("form", ["--{}", "--{}=true"])
def test_training_what_cannot_be_served_is_refused_with_the_reason(
    capsys: pytest.CaptureFixture[str], name: str, form: str
) -> None:
    option = form.format(name.replace("_", "-"))
    assert main(["train", "--name", "x", "--data", "x", "--images", "x", option]) == 2
    said = capsys.readouterr().err
    assert UNSERVED[name] in said
    assert option.partition("=")[0] in said
