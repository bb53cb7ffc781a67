"""What the fork server counts on: of vLLM, of our own entry point, and of the process that is forked."""

import ast
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from service.engine import forking
from tests.conftest import ROOT


def test_vllm_makes_its_core_s_process_by_the_one_function_that_we_replace() -> None:
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "v1/engine/utils.py").read_text()
    manager = source[source.index("class CoreEngineProcManager") :]
    assert "from vllm.utils.system_utils import get_mp_context" in source, "see service/engine/forking.py"
    assert "context = get_mp_context()" in manager, "vLLM makes its core in another way: see service/engine/forking.py"
    assert "context.Process(" in manager


def test_main_imports_nothing_by_itself_as_each_of_vllm_s_processes_runs_it_again() -> None:
    module = ast.parse((ROOT / "service/__main__.py").read_text())
    imported = [alias.name for node in module.body if isinstance(node, ast.Import) for alias in node.names]
    assert imported == ["sys"]
    assert not [node for node in module.body if isinstance(node, ast.ImportFrom)]


def test_nothing_is_forked_once_cuda_is_initialised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    assert forking._unsafe() is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert forking._unsafe() == "CUDA is initialised already"


def test_nothing_is_forked_while_threads_run() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="busy")
    thread.start()
    try:
        assert "busy" in (forking._unsafe() or "")
    finally:
        done.set()
        thread.join()


def test_vllm_starts_no_process_to_look_at_llava_s_class(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With an empty cache, as a new container has one; run alone, since vLLM remembers what it looked at."""
    look = """
import subprocess
from service.engine import forking
forking._inspect_llava()
def refuse(*_, **__): raise AssertionError("a process was started")
subprocess.run = subprocess.Popen = refuse
from vllm import ModelRegistry
info = ModelRegistry._try_inspect_model_cls("LlavaForConditionalGeneration")
print(info.supports_multimodal, info.architecture)
"""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, cwd=ROOT, check=False)
    assert told.stdout.split() == ["True", "LlavaForConditionalGeneration"], told.stderr[-2000:]
    assert "overwritten" not in told.stderr
