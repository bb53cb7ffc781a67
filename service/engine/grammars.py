"""Checks that vLLM can constrain an answer to a JSON schema, on a thread, before the engine is asked.

vLLM itself looks at a schema on the event loop and compiles it in its engine process, where a schema that does not
compile is a failed request without a word why.
"""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from service.errors import FormatRefused

# What xgrammar writes before the reason: its clock, its source file and line.
_PLACE = re.compile(r"^.*?\.(?:cc|h):\d+: ", re.DOTALL)
# How vLLM is told to write JSON (service/engine/vllm.py): no spaces that nobody asked for, which a model may never end.
CONFIG = {"backend": "xgrammar", "disable_any_whitespace": True}
_CACHE_BYTES = 64 * 2**20


class Grammars:
    """Compiles schemas for one base's tokenizer; one at a time, so that schemas take one core at most."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._thread = ThreadPoolExecutor(1, "grammar")
        self._compiler: Any = None

    async def check(self, schema: str, vocabulary: int) -> None:
        """Return if an answer can be held to a JSON schema; `vocabulary` is the size of the model's.

        Raises:
            FormatRefused: it cannot; the message says why.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._compile, schema, vocabulary)

    def _compile(self, schema: str, vocabulary: int) -> None:
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import SamplingParams, StructuredOutputsParams
        from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

        try:
            validate_xgrammar_grammar(SamplingParams(structured_outputs=StructuredOutputsParams(json=schema)))
            self._made(vocabulary).compile_json_schema(schema, any_whitespace=False, separators=(",", ":"))
        except (VLLMClientError, RuntimeError) as error:
            raise FormatRefused(f"response_format: no answer can be held to this schema: {_reason(error)}") from error

    def _made(self, vocabulary: int) -> Any:
        if self._compiler is None:
            import xgrammar
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(self._checkpoint, local_files_only=True)
            info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary)
            self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_limit_bytes=_CACHE_BYTES)
        return self._compiler


def _reason(error: Exception) -> str:
    return _PLACE.sub("", str(error)).strip()[:300]
