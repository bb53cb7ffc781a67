"""Every part of vLLM's, and of its grammars' compiler, that service/engine uses: what it is called and takes, and why.

All are here, in one place, and most are no promise of vLLM's. After an upgrade a part that is gone, renamed, or takes
other arguments fails here with the file that needs it; what the parts do is tested in tests/test_engine_contract.py.
"""

import contextlib
import importlib
import inspect
from importlib.metadata import version
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.engine


class Part(NamedTuple):
    """A part by its dotted path; `names` are parameters, fields or members that must be there."""

    path: str
    names: tuple[str, ...]
    file: str
    why: str


_DRAWING = ("temperature", "top_p", "seed", "stop", "max_tokens", "structured_outputs")
_TELLING = ("logprobs", "logprob_token_ids", "output_kind", "detokenize", "stream_interval")
PARTS = (
    Part("vllm.engine.arg_utils:AsyncEngineArgs", ("max_loras", "structured_outputs_config"), "vllm.py", "starts it"),
    Part("vllm.v1.engine.async_llm:AsyncLLM.from_engine_args", ("engine_args",), "vllm.py", "starts it"),
    Part("vllm.v1.engine.async_llm:AsyncLLM.generate", ("request_id", "lora_request"), "vllm.py", "asks it"),
    Part("vllm.v1.engine.async_llm:AsyncLLM.add_lora", ("lora_request",), "vllm.py", "loads adapters"),
    Part("vllm.v1.engine.async_llm:AsyncLLM.remove_lora", ("lora_id",), "vllm.py", "unloads adapters"),
    Part("vllm.v1.engine.async_llm:AsyncLLM.errored", (), "vllm.py", "learns of its death"),
    Part("vllm.v1.engine.async_llm:AsyncLLM.shutdown", (), "vllm.py", "stops it"),
    Part("vllm.lora.request:LoRARequest", ("lora_name", "lora_int_id", "lora_path"), "vllm.py", "names adapters"),
    Part("vllm.renderers.inputs.preprocess:parse_model_prompt", ("model_config", "prompt"), "vllm.py", "renders once"),
    Part("vllm.renderers.base:BaseRenderer.render_cmpl_async", ("prompts",), "vllm.py", "renders once"),
    Part("vllm.renderers.base:BaseRenderer.get_mm_processor", (), "vllm.py", "counts tokens before it renders"),
    Part(
        "vllm.model_executor.models.llava:BaseLlavaProcessingInfo.get_num_image_tokens",
        ("image_width", "image_height"),
        "vllm.py",
        "counts tokens before it renders",
    ),
    Part("vllm.v1.engine:EngineCoreOutput", ("mm_cache_miss_hashes",), "sampling.py", "sends lost pictures again"),
    Part("vllm.outputs:CompletionOutput", ("cumulative_logprob", "stop_reason"), "sampling.py", "reads what it says"),
    Part("vllm.outputs:RequestOutput", ("metrics", "finished"), "sampling.py", "counts tokens that are kept"),
    Part(
        "vllm.v1.metrics.stats:RequestStateStats",
        ("num_generation_tokens",),
        "sampling.py",
        "counts tokens that are kept",
    ),
    Part("vllm.v1.metrics.loggers:PrometheusStatLogger.record", (), "vllm.py", "hears of each step"),
    Part("vllm.logprobs:Logprob", ("logprob", "rank", "decoded_token"), "sampling.py", "reads what it says"),
    Part("vllm.sampling_params:SamplingParams", _DRAWING + _TELLING, "sampling.py", "says how to draw"),
    Part("vllm.sampling_params:StructuredOutputsParams", ("json",), "sampling.py", "holds answers to a schema"),
    Part("vllm.sampling_params:RequestOutputKind", ("DELTA", "FINAL_ONLY"), "sampling.py", "hears every step"),
    Part("vllm.config:StructuredOutputsConfig", ("backend", "disable_any_whitespace"), "grammars.py", "names xgrammar"),
    Part(
        "vllm.v1.structured_output.backend_xgrammar:validate_xgrammar_grammar",
        ("sampling_params",),
        "grammars.py",
        "refuses schemas off the event loop",
    ),
    Part("xgrammar:TokenizerInfo.from_huggingface", ("vocab_size",), "grammars.py", "compiles schemas first"),
    Part("xgrammar:GrammarCompiler", ("max_threads", "cache_limit_bytes"), "grammars.py", "compiles schemas first"),
    Part(
        "xgrammar:GrammarCompiler.compile_json_schema",
        ("schema", "any_whitespace", "separators"),
        "grammars.py",
        "compiles schemas first",
    ),
    Part(
        "vllm.tokenizers.detokenizer_utils:_restore_leading_spaces",
        ("raw_token", "token_str", "marker"),
        "unnamed_tokens.py",
        "lets tokens without a piece be told",
    ),
    Part(
        "vllm.v1.engine.utils:CoreEngineProcManager.finished_procs",
        (),
        "vllm.py",
        "tells how its core ended",
    ),
    Part("vllm.exceptions:VLLMError", (), "vllm.py", "makes its errors ours"),
    Part("vllm.exceptions:VLLMClientError", (), "vllm.py", "makes its errors ours"),
    Part("vllm.v1.engine.exceptions:EngineDeadError", (), "vllm.py", "knows an error that gives no reason"),
    Part(
        "vllm.lora.punica_wrapper.punica_cpu:PunicaWrapperCPU._apply_shrink",
        ("y", "x", "w_t_all", "scale"),
        "lora_on_cpu.py",
        "multiplies by adapter",
    ),
    Part(
        "vllm.lora.punica_wrapper.punica_cpu:PunicaWrapperCPU._apply_expand",
        ("y", "x", "w_t_all", "y_offset", "y_slice_size", "add_inputs"),
        "lora_on_cpu.py",
        "multiplies by adapter",
    ),
    Part(
        "vllm.lora.punica_wrapper.punica_cpu:PunicaWrapperCPU.token_lora_indices",
        (),
        "lora_on_cpu.py",
        "multiplies by adapter",
    ),
    Part("vllm.v1.executor.uniproc_executor:UniProcExecutor", (), "vllm.py", "has model and core in one process"),
    Part(
        "vllm.model_executor.kernels.linear.mixed_precision.cpu:CPUWNA16LinearKernel.process_weights_after_loading",
        ("layer",),
        "without_avx512.py",
        "unpacks INT4 weights",
    ),
    Part(
        "vllm.model_executor.kernels.linear.mixed_precision.cpu:CPUWNA16LinearKernel.apply_weights",
        ("layer", "x", "bias"),
        "without_avx512.py",
        "multiplies by unpacked weights",
    ),
    Part(
        "vllm.model_executor.layers.utils:dispatch_cpu_unquantized_gemm",
        ("layer", "remove_weight"),
        "without_avx512.py",
        "multiplies by weights in bfloat16",
    ),
    Part("vllm.platforms:current_platform.get_punica_wrapper", (), "lora_on_cpu.py", "puts itself in its place"),
)
# The environment that vLLM reads and the service sets.
VARIABLES = ("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_INT4_W4A8", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL")


def running() -> str:
    from vllm import __version__

    return str(__version__)


def find(path: str) -> Any:
    module, _, names = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


def has(found: Any, name: str) -> bool:
    fields = {*getattr(found, "__dataclass_fields__", ()), *getattr(found, "__struct_fields__", ())}
    with contextlib.suppress(TypeError, ValueError):
        fields |= inspect.signature(found).parameters.keys()
    return name in fields or hasattr(found, name)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.path)
def test_a_part_of_vllm_is_where_it_was(part: Part) -> None:
    upgraded = f"vLLM {running()}, xgrammar {version('xgrammar')}: service/engine/{part.file} {part.why} by"
    try:
        found = find(part.path)
    except (ImportError, AttributeError):
        pytest.fail(f"{upgraded} {part.path}, which is gone")
    missing = [name for name in part.names if not has(found, name)]
    assert not missing, f"{upgraded} {part.path}, which has no {', '.join(missing)}"


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_of_vllm_is_one(name: str) -> None:
    from vllm import envs

    assert name in envs.environment_variables, (
        f"vLLM {version('vllm-cpu')} does not read {name}: service/engine/vllm.py"
    )


def test_the_reason_to_keep_beams_from_choices_is_still_there() -> None:
    """Where this fails, service/engine/sides.py may go: each row of vLLM's V1 sampler gets what it asked for."""
    import torch
    from vllm.v1.sample.sampler import Sampler

    source = inspect.getsource(Sampler.forward)
    assert "if logprob_token_ids_tensors is not None and num_logprobs is not None:" in source
    row = torch.log_softmax(torch.arange(8.0).repeat(2, 1), -1)
    found = Sampler().gather_specific_token_logprobs(row, {0: [3]}, torch.tensor([7, 7]))
    assert found is not None
    assert found.logprobs[1].tolist()[1:] == [-float("inf")], "the row that named none gets none of its likeliest"
