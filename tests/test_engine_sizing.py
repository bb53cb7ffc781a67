"""Sizes follow from the checkpoint and the memory there is; what cannot fit names the option and the number."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import replica
from service.engine.sizing import DoesNotFit, Shape, Sizes, fit
from service.memory import GIB, Gpu, Memory, available
from service.settings import Settings
from tests.conftest import CHECKPOINT

# llava-hf/llava-1.5-7b-hf and -13b-hf, in INT4: weights as written by models.replica.
SEVEN = Shape(
    weights=4_530_000_000, layers=32, hidden=4096, inner=11008, heads=32, kv_heads=32, context=4096, image_tokens=576,
    image_side=336,
)  # fmt: skip
THIRTEEN = replace(SEVEN, weights=8_000_000_000, layers=40, hidden=5120, inner=13824, heads=40, kv_heads=40)


def on(gib: float, *gpus: float) -> Memory:
    return Memory(int(gib * GIB), tuple(Gpu(int(each * GIB), int(each * GIB)) for each in gpus))


def sizes(shape: Shape = SEVEN, memory: Memory | None = None, **options: Any) -> Sizes:
    return fit(shape, memory or on(22), Settings(**options))


def test_the_7b_s_costs_are_those_that_were_measured() -> None:
    assert SEVEN.token_bytes * 2048 == GIB
    assert 64 * SEVEN.adapter_bytes(64) == pytest.approx(20.5e9, rel=0.01)


def test_a_checkpoint_s_files_say_its_shape(tmp_path: Path) -> None:
    replica.write_files(replica.config("7b"), tmp_path, "int4")
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    assert Shape.of_checkpoint(tmp_path) == replace(SEVEN, weights=1000, packed=True)
    assert Shape.of_checkpoint(CHECKPOINT).context == 1024


def test_without_avx_512_weights_take_float32_s_memory_and_the_story_says_why() -> None:
    packed = replace(SEVEN, packed=True).in_float32()
    assert packed.weights == pytest.approx(6.48e9 * 4 + (4.53e9 - 6.48e9 / 2) * 2, rel=0.01)
    assert "no AVX-512" in sizes(packed, on(48)).story
    with pytest.raises(DoesNotFit, match="no AVX-512"):
        sizes(packed, on(16))
    assert replace(SEVEN, weights=14_000_000_000).in_float32().weights == 28_000_000_000
    full = replace(SEVEN, bytes_each=4)
    assert full.in_float32() == full


def test_the_7b_with_defaults_holds_its_whole_context_on_24_gib_of_host_memory() -> None:
    found = sizes()
    assert found.max_model_len == 4096
    assert found.kv_cache > 2 * GIB
    assert found.max_loras == 4
    assert 4 <= found.max_cpu_loras < 20
    assert found.image_cache < GIB // 2
    assert "KV cache" in found.story


def test_the_context_shrinks_where_memory_is_short_and_nothing_was_asked() -> None:
    found = sizes(memory=on(10))
    assert 832 <= found.max_model_len < 4096
    assert found.max_model_len % 32 == 0
    assert found.kv_cache >= found.max_model_len * SEVEN.token_bytes


@pytest.mark.parametrize(("gib", "shape"), [(24, SEVEN), (24, THIRTEEN), (80, THIRTEEN)])
def test_a_gpu_holds_four_adapters_in_a_batch(gib: int, shape: Shape) -> None:
    found = sizes(shape, on(64, gib))
    assert (found.max_loras, found.max_model_len, found.kv_cache) == (4, 4096, 0)
    assert found.gpu_memory_utilization == 0.9
    assert found.max_cpu_loras == pytest.approx((64 - 2.5) * GIB / 2 / shape.adapter_bytes(64), rel=0.1)


def test_a_gpu_that_others_use_is_shared() -> None:
    memory = Memory(64 * GIB, (Gpu(80 * GIB, 40 * GIB),))
    assert sizes(memory=memory).gpu_memory_utilization == 0.48
    assert sizes(memory=memory, gpu_memory_utilization=0.3).gpu_memory_utilization == 0.3


@pytest.mark.parametrize("cpu_build", [True, False])
def test_a_cpu_build_of_vllm_takes_its_sizes_from_the_host_though_there_is_a_gpu(
    cpu_build: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.sizing.on_cpu", lambda: cpu_build)
    monkeypatch.setattr(Memory, "now", lambda: on(22, 24))
    found = Sizes.of(CHECKPOINT, Settings())
    assert (found.kv_cache > 0) == cpu_build
    assert ("GPU memory" in found.story) != cpu_build


def test_two_gpus_hold_what_one_does_not() -> None:
    big = replace(THIRTEEN, weights=26 * GIB)
    with pytest.raises(DoesNotFit, match=r"its weights are 26.00 GiB"):
        sizes(big, on(64, 24, 24))
    assert sizes(big, on(64, 24, 24), engine_args={"tensor_parallel_size": 2}).max_loras >= 1
    with pytest.raises(DoesNotFit, match="4 GPUs are asked for, and 2 are there"):
        sizes(big, on(64, 24, 24), engine_args={"tensor_parallel_size": 4})


@pytest.mark.parametrize(
    ("memory", "options", "option", "words"),
    [
        (on(6), {}, "model", "weights are 4.22 GiB, and .* INT4"),
        (on(22), {"cpu_kv_cache_gib": 1, "max_model_len": 2048}, "cpu_kv_cache_gib", "1.00 GiB .* 2048 .* 1.02 GiB"),
        (on(22), {"cpu_kv_cache_gib": 50}, "cpu_kv_cache_gib", "50.00 GiB are asked for, and"),
        (on(9.9), {"max_model_len": 4096}, "max_model_len", "4096 tokens needs 2.02 GiB"),
        (on(7.9), {}, "max_model_len", "832 tokens needs"),
        (on(22), {"max_loras": 100}, "max_loras", "100 adapter slots of rank 64 take 29.79 GiB"),
        (on(22), {"adapters_host_bytes": 10**9}, "adapters_host_bytes", "hold 3 adapters .* 4 slots"),
    ],
)
def test_what_cannot_fit_is_one_sentence_with_the_number_and_the_option(
    memory: Memory, options: dict[str, Any], option: str, words: str
) -> None:
    with pytest.raises(DoesNotFit, match=words) as caught:
        sizes(memory=memory, **options)
    assert caught.value.option == option
    assert "\n" not in str(caught.value)


def test_who_has_an_int4_copy_is_not_told_to_make_one() -> None:
    with pytest.raises(DoesNotFit, match=r"there for it: take a smaller model, or a larger machine$"):
        sizes(replace(SEVEN, packed=True), on(6))


def test_the_adapters_host_memory_is_an_option_in_bytes() -> None:
    assert sizes(adapters_host_bytes=2 * 10**9).max_cpu_loras == 6
    assert sizes(max_cpu_loras=64).max_cpu_loras == 64
    assert "MORE THAN IS FREE" in sizes(max_cpu_loras=64).story


@given(host=st.floats(1, 600), gpu=st.none() | st.floats(8, 192), rank=st.sampled_from([8, 64, 512]))
def test_what_is_given_out_is_there(host: float, gpu: float | None, rank: int) -> None:
    memory = on(host, *([gpu] if gpu else []))
    for shape in (SEVEN, THIRTEEN):
        try:
            found = sizes(shape, memory, max_lora_rank=rank)
        except DoesNotFit:
            continue
        slots = found.max_loras * shape.adapter_bytes(rank)
        sequence = found.max_model_len * shape.token_bytes
        if gpu:
            assert shape.weights + slots + sequence <= gpu * GIB * found.gpu_memory_utilization
        else:
            assert found.kv_cache >= sequence
            assert shape.weights + slots + found.kv_cache + 2 * found.image_cache <= memory.host
        assert found.max_cpu_loras >= found.max_loras >= 1


def test_a_container_s_limit_counts_without_the_files_it_has_cached(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    write("proc/meminfo", "MemTotal:       24000000 kB\nMemAvailable:   20000000 kB\n")
    assert available(tmp_path) == 20_000_000 * 1024
    for name, text in {
        "max": "8000000000",
        "current": "5000000000",
        "stat": "anon 1\ninactive_file 1000000000",
    }.items():
        write(f"sys/fs/cgroup/memory.{name}", text)
    assert available(tmp_path) == 4_000_000_000
    write("sys/fs/cgroup/memory.max", "max")
    assert available(tmp_path) == 20_000_000 * 1024


def test_a_service_that_does_not_fit_says_so_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    from service.__main__ import main

    assert main(["--cpu-kv-cache-gib", "100000"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("option cpu_kv_cache_gib (VQA_CPU_KV_CACHE_GIB): 100000.00 GiB are asked for, and ")
    assert "\n" not in said
