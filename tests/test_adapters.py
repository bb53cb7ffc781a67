"""The store's layout and atomicity, and what must not be served: every refusal has its reason."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from loadtest.store.stores import files_of
from service.adapters.base import Base
from service.adapters.manifest import FILE
from service.adapters.modules import CONFIG, WEIGHTS, language_model_linears
from service.adapters.proof import Proof
from service.adapters.store import Store
from service.engine.vllm import LINEARS
from service.errors import AdapterNotFound, AdapterRefused
from service.prompt import Prompt
from tests.conftest import ADAPTERS, CHECKPOINT, ROOT

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def proof(prompt: Prompt) -> Proof:
    return Proof.for_checkpoint(CHECKPOINT, Base.of_checkpoint(CHECKPOINT), prompt, max_rank=64)


@pytest.fixture
def files() -> Files:
    return files_of(Store(ADAPTERS).stable("digits"))


def test_a_published_version_is_found_verified_and_immutable(tmp_path: Path, files: Files) -> None:
    store = Store(tmp_path)
    first = store.publish("digits", files)
    assert store.names() == ["digits"]
    assert store.stable("digits") == first
    store.verify(first)
    second = store.publish("digits", files | {"README.md": b"another card"})
    assert second.version != first.version
    assert store.stable("digits") == second
    assert first.path.is_dir()


def test_publishing_the_same_files_again_changes_nothing(tmp_path: Path, files: Files) -> None:
    store = Store(tmp_path)
    assert store.publish("digits", files) == store.publish("digits", files)
    assert len(list((tmp_path / "digits/versions").iterdir())) == 1


def test_a_version_changed_after_publishing_is_refused(tmp_path: Path, files: Files) -> None:
    adapter = Store(tmp_path).publish("digits", files)
    (adapter.path / "README.md").write_text("tampered")
    with pytest.raises(AdapterRefused) as refused:
        Store(tmp_path).verify(adapter)
    assert refused.value.reason == "corrupt"


@pytest.mark.parametrize("name", ["", "../x", "/etc", "Upper", "a/b", ".hidden", "~", "a" * 65])
def test_names_that_could_leave_the_store_are_no_names(tmp_path: Path, files: Files, name: str) -> None:
    with pytest.raises(ValueError, match="no adapter name"):
        Store(tmp_path).publish(name, files)
    with pytest.raises(AdapterNotFound):
        Store(tmp_path).stable(name)


def test_a_killed_publish_leaves_nothing_visible(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).publish("digits", files)
    assert Store(tmp_path).names() == []


def test_both_copies_of_the_embedded_base_are_one_base() -> None:
    int4, bf16 = Base.of_checkpoint(CHECKPOINT), Base.of_checkpoint(ROOT / "models/tiny-llava")
    assert int4.digest == bf16.digest
    assert (int4.precision, bf16.precision) == ("int4", "bfloat16")


def test_only_language_model_linears_may_be_changed() -> None:
    linears = language_model_linears(CHECKPOINT)
    assert all("language_model" in name for name in linears)
    assert len(linears) % 7 == 0
    assert {name.rpartition(".")[2] for name in linears} == set(LINEARS)  # where vLLM has room for adapters


@pytest.mark.parametrize("name", Store(ADAPTERS).names())
def test_the_repository_s_adapters_pass_and_are_small(proof: Proof, name: str) -> None:
    adapter = Store(ADAPTERS).stable(name)
    Store(ADAPTERS).verify(adapter)
    manifest = proof.examine(adapter)
    assert manifest is not None
    assert manifest.name == name
    assert sum(file.stat().st_size for file in adapter.path.iterdir()) <= 1_000_000


def _config(**changes: object) -> Callable[[Files], Files]:
    return lambda files: {CONFIG: json.dumps({**json.loads(files[CONFIG]), **changes}).encode()}


def _manifest(**changes: object) -> Callable[[Files], Files]:
    return lambda files: {FILE: json.dumps({**json.loads(files[FILE]), **changes}).encode()}


def _tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Files], Files]:
    return lambda files: {WEIGHTS: save(change(load(files[WEIGHTS])))}


def _weights(tensors: dict[str, tuple[int, int]], size: int | None = None) -> Callable[[Files], Files]:
    """A safetensors file by hand: the bytes each tensor claims, and a header that claims to be `size` long."""
    header = json.dumps(
        {
            name: {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}
            for name, (start, end) in tensors.items()
        }
    ).encode()
    return lambda _: {WEIGHTS: struct.pack("<Q", size or len(header)) + header + bytes(64)}


REFUSALS: list[tuple[str, Callable[[Files], Files]]] = [
    # Renamed keys and weights of zero: stock vLLM loads both without a word and answers as the base model.
    ("keys", _tensors(lambda old: {key.replace("language_model", "llm"): tensor for key, tensor in old.items()})),
    ("no_effect", _tensors(lambda old: {key: torch.zeros_like(tensor) for key, tensor in old.items()})),
    ("keys", _tensors(lambda old: dict(list(old.items())[1:]))),
    ("keys", _tensors(lambda old: {**old, "base_model.model.lm_head.lora_A.weight": torch.ones(1)})),
    ("no_effect", _tensors(lambda old: {key: tensor * ("lora_A" in key) for key, tensor in old.items()})),
    ("values", _tensors(lambda old: {key: tensor * float("nan") for key, tensor in old.items()})),
    ("shape", _tensors(lambda old: {key: tensor[:, :-1].contiguous() for key, tensor in old.items()})),
    ("rank", _config(r=512)),
    ("shape", _config(r=8)),
    ("features", _config(use_dora=True)),
    ("features", _config(bias="all")),
    ("features", _config(modules_to_save=["lm_head"])),
    ("files", lambda _: {CONFIG: b"{"}),
    ("files", lambda _: {WEIGHTS: b"\x80\x04pickle"}),
    ("files", _weights({"a": (0, 64)}, size=1 << 40)),
    ("files", _weights({"a": (0, 64)}, size=99_000_000)),
    ("files", _weights({"a": (0, 40), "b": (24, 64)})),
    ("files", _weights({"a": (0, 1 << 40)})),
    ("pickle", lambda _: {"adapter_model.bin": b"\x80\x04."}),
    ("manifest", lambda _: {FILE: b"{}"}),
    ("mismatch", _manifest(base_digest="0" * 64)),
    ("mismatch", _manifest(prompt_digest="0" * 64)),
    ("mismatch", _manifest(preparation={"size": 336})),
]


@pytest.mark.parametrize(("reason", "change"), REFUSALS)
def test_a_faulty_adapter_is_refused_with_its_reason(
    proof: Proof, tmp_path: Path, files: Files, reason: str, change: Callable[[Files], Files]
) -> None:
    adapter = Store(tmp_path).publish("digits", files | change(files))
    with pytest.raises(AdapterRefused) as refused:
        proof.examine(adapter)
    assert refused.value.reason == reason
