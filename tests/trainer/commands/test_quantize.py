"""`trainer quantize`: the copy is INT4, loads, has its source's identity, and its cost on rows is told."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from models import replica
from service.adapters.base import Base
from service.prompt import Prompt
from tests.conftest import CHECKPOINT, ROOT
from trainer.__main__ import main
from trainer.model.checkpoint_files import on_disk
from trainer.model.int4 import IGNORE, Packed, pack, quick_unpacking, unpack
from trainer.model.layerwise import Streamed

pytest.importorskip("llmcompressor")
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier

MODEL = ROOT / "models/tiny-llava"


def run(output: Path, *options: str) -> int:
    return main(["quantize", "--model", str(MODEL), "--output", str(output), "--group-size", "32", *options])


@pytest.mark.parametrize("fit", [["--samples", "4"], ["--no-fit"]], ids=["GPTQ", "data-free"])
def test_the_copy_loads_and_its_cost_is_told(
    codes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fit: list[str]
) -> None:
    rows = ["--data", str(codes / "train.jsonl"), "--images", str(codes), "--holdout", "0.2"]
    assert run(tmp_path / "packed", *rows, *fit) == 0
    source, packed = Base.of_checkpoint(MODEL), Base.of_checkpoint(tmp_path / "packed")
    assert (packed.precision, packed.digest) == ("int4", source.digest)
    assert Prompt(tmp_path / "packed").digest == Prompt(MODEL).digest
    loss, cost = (json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{"))
    assert loss["packed"] == "packed"
    assert loss["answer_tokens"] > 0
    assert loss["peak_gb"] > 0
    assert loss["packed_loss"] == pytest.approx(loss["loss"], rel=0.25)
    assert (cost["base"], cost["precision"], cost["adapter"]) == (source.id, source.precision, "packed")
    assert 0 < cost["rows"] < 60
    low, high = cost["metrics"]["normalised"]["gain"][1:]
    assert -1 <= low <= high <= 1


def test_without_rows_it_is_data_free_and_still_read_again_before_it_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "packed") == 0
    assert capsys.readouterr().out.count("{") == 0

    def other(file: Path) -> dict[str, torch.Tensor]:
        return {name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}

    monkeypatch.setattr("trainer.model.quantize.load_file", other)
    with pytest.raises((OSError, ValueError, RuntimeError)):
        run(tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


def test_a_source_that_lacks_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replica.main([str(tmp_path / "source"), "--size", "small", "--precision", "bfloat16"])
    (tmp_path / "source/model-00002.safetensors").unlink()
    assert main(["quantize", "--model", str(tmp_path / "source"), "--output", str(tmp_path / "packed")]) == 2
    assert "is not complete: it has no model-00002.safetensors" in capsys.readouterr().err


def test_rounding_errs_no_more_than_llm_compressor_s(tmp_path: Path) -> None:
    assert run(tmp_path / "packed") == 0
    model = LlavaForConditionalGeneration.from_pretrained(MODEL, dtype=torch.bfloat16)
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    oneshot(model=model, recipe=QuantizationModifier(config_groups=groups, ignore=IGNORE))
    model.save_pretrained(tmp_path / "theirs", save_compressed=True)
    theirs = {on_disk(name): tensor for name, tensor in load_file(tmp_path / "theirs/model.safetensors").items()}
    ours = {
        name: tensor for file in (tmp_path / "packed").glob("*.safetensors") for name, tensor in load_file(file).items()
    }
    source = dict(Streamed(MODEL).tensors("language_model.model.layers."))
    linears = [name for name in source if name.endswith("_proj.weight")]
    assert len(linears) == 4 * 7
    for name in linears:
        mine, other = (_values(tensors, name) for tensors in (ours, theirs))
        # Theirs divides in bfloat16, ours in float32.
        assert _error(mine, source[name]) <= 1.001 * _error(other, source[name])
        assert torch.equal(ours[f"{name}_shape"], theirs[f"{name}_shape"])


def _values(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return unpack({f"weight_{part}": tensors[f"{name}_{part}"] for part in ("packed", "scale", "shape")}, 32)


def _error(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found.float() - true.float()).square().sum())


def test_gptq_errs_less_on_what_it_was_fitted_to_than_rounding() -> None:
    torch.manual_seed(0)
    seen = torch.randn(500, 64) @ torch.randn(64, 64)
    weight = torch.randn(48, 64)
    moment = 2 * seen.T @ seen
    rounded, fitted = pack(weight, None, 32), pack(weight, moment, 32)
    errors = [(seen @ (each.weight.float() - weight).T).square().sum() for each in (fitted, rounded)]
    assert errors[0] < 0.8 * errors[1]
    assert torch.equal(unpack(fitted.tensors, 32), fitted.weight)
    for part, rows in zip(fitted.split([16, 32]), torch.split(fitted.weight, [16, 32]), strict=True):
        assert torch.equal(part.weight, rows)
        assert torch.equal(part.weight, unpack(part.tensors, 32))


def test_gptq_s_column_loop_runs_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmcompressor.modifiers.gptq import gptq_quantize

    real, threads = gptq_quantize.fake_quantize, list[int]()

    def told(*tensors: torch.Tensor) -> torch.Tensor:
        threads.append(torch.get_num_threads())
        found: torch.Tensor = real(*tensors)
        return found

    monkeypatch.setattr(gptq_quantize, "fake_quantize", told)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        pack(torch.randn(8, 64), torch.eye(64), 32)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1] * 64


def test_a_linear_that_gptq_cannot_fit_is_named_and_rounded(caplog: pytest.LogCaptureFixture) -> None:
    weight, broken = torch.randn(8, 64), torch.eye(64)
    broken[0, 1] = broken[1, 0] = 5.0  # no second moment: not positive
    with caplog.at_level("WARNING"):
        found = pack(weight, broken, 32)
    assert "a linear with 64 inputs is rounded: its rows' second moment could not be inverted" in caplog.text
    assert torch.equal(found.weight, pack(weight, None, 32).weight)


def test_four_bits_are_unpacked_as_compressed_tensors_does() -> None:
    from compressed_tensors.compressors.pack_quantized import base

    theirs = base.unpack_from_int32
    words = torch.randint(-(2**31), 2**31, (6, 20), dtype=torch.int32)
    with quick_unpacking():
        assert base.unpack_from_int32 is not theirs
        for shape in (torch.Size((6, 160)), torch.Size((6, 153))):
            assert torch.equal(base.unpack_from_int32(words, 4, shape), theirs(words, 4, shape))
        assert torch.equal(base.unpack_from_int32(words, 8, torch.Size((6, 80))), theirs(words, 8, torch.Size((6, 80))))
        assert torch.equal(
            base.unpack_from_int32(words, 4, torch.Size((48, 20)), packed_dim=0),
            theirs(words, 4, torch.Size((48, 20)), packed_dim=0),
        )
    assert base.unpack_from_int32 is theirs


@pytest.mark.parametrize("pictures", [0, 1])
def test_layer_by_layer_is_what_the_whole_model_computes(pictures: int) -> None:
    processor = AutoProcessor.from_pretrained(MODEL)
    text = Prompt(MODEL).text("what color is the shape?", pictures)
    inputs = dict(
        processor(text=text, images=[Image.new("RGB", (128, 128), "red")] * pictures or None, return_tensors="pt")
    )
    streamed = Streamed(MODEL)
    with torch.inference_mode():
        state = streamed.embed(inputs)
        for number in range(streamed.depth):
            state = streamed.run(streamed.layer(number), state)
        found = streamed.logits(state[0])
        whole = LlavaForConditionalGeneration.from_pretrained(MODEL, dtype=torch.bfloat16)
        inputs = {name: each.bfloat16() if each.is_floating_point() else each for name, each in inputs.items()}
        assert torch.allclose(found, whole(**inputs).logits[0].float(), atol=0.15)
        assert torch.equal(found.argmax(-1), whole(**inputs).logits[0].argmax(-1))


def test_text_rows_are_calibration_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [json.dumps({"question": f"what is {n}?", "answer": str(n)}) for n in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    packed: list[bool] = []

    def told(weight: torch.Tensor, moment: torch.Tensor | None, group_size: int) -> Packed:
        packed.append(moment is not None)
        return pack(weight, moment, group_size)

    monkeypatch.setattr("trainer.model.quantize.pack", told)
    assert run(tmp_path / "packed", "--data", str(tmp_path / "rows.jsonl")) == 0
    assert packed == [True] * 4 * 4


def test_a_group_size_that_does_not_divide_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "packed", "--group-size", "128") == 2
    assert "--group-size: a linear of this model has 192 inputs, no multiple of 128: take 64" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", str(CHECKPOINT)], "--model: .*tiny-llava-int4 is int4, .*name the checkpoint it was packed from"),
        (["--output", str(ROOT)], "is there already"),
        (["--data", "rows.jsonl"], "rows.jsonl: cannot be read"),
    ],
)
def test_what_cannot_be_packed_is_refused_by_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert run(tmp_path / "packed", *options) == 2
    assert re.search(words, capsys.readouterr().err)
