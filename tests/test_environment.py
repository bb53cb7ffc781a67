"""What vLLM's processes find in their environment."""

from pathlib import Path

import pytest

from service import environment


@pytest.fixture(autouse=True)
def _cpu_of_four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "on_cpu", lambda: True)
    monkeypatch.setattr(environment, "cores", lambda: 4)


def test_on_a_cpu_nothing_is_compiled_no_core_is_pinned_and_one_is_left_to_the_gateway() -> None:
    found: dict[str, str] = {}
    environment.set_defaults(found)
    assert found["TORCHDYNAMO_DISABLE"] == "1"
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert found["OMP_NUM_THREADS"] == "3"


def test_what_the_user_set_stays() -> None:
    mine = {"OMP_NUM_THREADS": "7", "VLLM_CPU_OMP_THREADS_BIND": "0-3", "TORCHDYNAMO_DISABLE": "0", "VLLM_PLUGINS": ""}
    found = dict(mine)
    environment.set_defaults(found)
    assert found.items() >= mine.items()


def test_on_a_gpu_torch_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "on_cpu", lambda: False)
    found: dict[str, str] = {}
    environment.set_defaults(found)
    assert not found.keys() & {"TORCHDYNAMO_DISABLE", "VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS"}


def test_a_container_s_limit_of_cores_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    limits = tmp_path / "sys/fs/cgroup"
    limits.mkdir(parents=True)
    every = environment.cores(tmp_path)
    (limits / "cpu.max").write_text("max 100000\n")
    assert environment.cores(tmp_path) == every
    (limits / "cpu.max").write_text("100000 100000\n")
    assert environment.cores(tmp_path) == 1


def test_a_processor_s_flags_say_whether_it_has_avx_512(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "proc").mkdir()
    said = tmp_path / "proc/cpuinfo"
    said.write_text("flags\t\t: fpu sse2 avx avx2 fma\n")
    assert environment.without_avx512(tmp_path)
    said.write_text("flags\t\t: fpu sse2 avx avx2 avx512f avx512bw\n")
    assert not environment.without_avx512(tmp_path)
    assert not environment.without_avx512(tmp_path / "elsewhere")
