"""Every route asked as its OpenAPI document says, and against it: answers keep to the document, no failure is untyped.

`make test-fuzz` runs it, 200 requests of each kind to each route; `--inputs` over 500 is how many.
"""

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.app import create_app
from service.engine.fake import FakeEngine
from service.engine.vllm import VLLMEngine
from service.errors import ServiceError
from service.settings import Settings
from tests.conftest import ADAPTERS, CHECKPOINT, Running, listening, png
from tests.test_http_edge import data_url

pytestmark = pytest.mark.slow

CHECKS: list[Any] = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
TRUE: dict[str, Any] = {"image": data_url(png()), "images": [data_url(png())], "adapter": "digits", "model": "shapes"}
TRUE |= {"messages": [{"role": "user", "content": "what is it?"}], "version": "stable", "weight": None}


def typed(error: type[ServiceError] = ServiceError) -> Iterator[tuple[int, str]]:
    """Status and code of every failure that a caller may be told of, save `internal`."""
    for kind in error.__subclasses__():
        yield kind.status, kind.code
        yield from typed(kind)


@pytest.fixture(params=["fake", pytest.param("vllm", marks=pytest.mark.engine)])
async def answering(
    request: pytest.FixtureRequest, fake_adapters: Path, tmp_path: Path
) -> AsyncGenerator[Running, None]:
    """Over a store of its own: what can be deleted will be; and where no generated URL leads anywhere."""
    fake = request.param == "fake"
    options = Settings(
        adapters=shutil.copytree(fake_adapters if fake else ADAPTERS, tmp_path / "store"),
        image_url_hosts=("nowhere.invalid",),
        capture=tmp_path / "capture",
        engine_canary_deadline_s=300,
    )
    engine = FakeEngine() if fake else VLLMEngine(CHECKPOINT, options)
    async with listening(create_app(options, CHECKPOINT, engine), engine) as running:
        yield running


def make_true(case: Any) -> None:
    """Put what is there where something is named, so that more gets past the first check."""
    if "name" in (case.path_parameters or {}):
        case.path_parameters["name"] = "digits"
    if isinstance(case.body, dict):
        case.body |= {field: TRUE[field] for field in case.body.keys() & TRUE.keys()}


def ask(operation: Any, mode: GenerationMode, base_url: str, examples: int) -> Counter[int]:
    """Ask one operation many times; what it answers is checked, and counted by status."""
    answers: Counter[int] = Counter()
    failures = set(typed())

    @settings(max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode), st.booleans())
    def run(case: Any, true: bool) -> None:
        if true:
            make_true(case)
        response = case.call(base_url=base_url, timeout=60)
        answers[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)
        if response.status_code >= 500:
            assert (response.status_code, response.json()["error"]["code"]) in failures

    run()
    return answers


@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")
async def test_every_answer_keeps_to_the_document(
    answering: Running, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    load_all_checks()
    examples = max(5, request.config.getoption("inputs") // 500)
    document = (await answering.client.get("/openapi.json")).json()
    schema: Any = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    operations.sort(key=lambda each: bool(each.method == "delete"))  # last, so that there is something until then
    seen: Counter[int] = Counter()
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                answers = await asyncio.to_thread(ask, operation, mode, str(answering.client.base_url), examples)
            except Exception as error:
                if "cannot be negated" in str(error) or type(error).__name__ in ("Unsatisfiable", "SkipTest"):
                    continue
                raise
            seen += answers
            with capsys.disabled():
                print(f"\n{operation.label} {mode.value}: {dict(sorted(answers.items()))}", end="")
    with capsys.disabled():
        print(f"\n{seen.total():,} requests to {len(operations)} operations: {dict(sorted(seen.items()))}")
    assert len(operations) >= 8
    assert seen[200] > 0
    assert seen[422] > 0
