"""Writes the reference pages that follow from the code: `python -m docs.reference.generate`.

A test compares the pages with what this makes (tests/test_docs.py), so that they cannot go stale.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel

from service import usage
from service.app import create_app
from service.canary.__main__ import PROGRAM as WATCH
from service.canary.options import Options
from service.command import PROGRAM as SERVE
from service.engine.fake import FakeEngine
from service.metrics import Metrics
from service.settings import Settings
from trainer.__main__ import PROGRAM as TRAIN
from trainer.__main__ import Trainer

FOLDER = Path(__file__).parent
_CHECKPOINT = FOLDER.parent.parent / "models/tiny-llava-int4"
_NOTE = "<!-- Written by `python -m docs.reference.generate`; change the code, not this page. -->\n\n"


def command_line() -> str:
    """Every command's `--help`, word for word."""
    parts = [
        "# The command line\n",
        f"`manylens serve` is `{SERVE}`, and `manylens COMMAND` is `{TRAIN} COMMAND`. Each option of the service"
        "\nis an environment variable too: `--max-loras 8` is `VQA_MAX_LORAS=8`. What `--help` prints:\n",
        f"## {SERVE}\n\n```text\n{usage.usage(SERVE, Settings, flags=False)}```\n",
        f"## {WATCH}\n\n```text\n{usage.usage(WATCH, Options)}```\n",
    ]
    for words in _commands(Trainer):
        parts.append(f"## {' '.join([TRAIN, *words])}\n\n```text\n{usage.usage(TRAIN, Trainer, words)}```\n")
    return _NOTE + "\n".join(parts)


def _commands(options: type[BaseModel], above: Sequence[str] = ()) -> Iterator[list[str]]:
    for name, (below, _) in usage.subcommands(options).items():
        yield [*above, name]
        yield from _commands(below, [*above, name])


def http() -> str:
    """Every route of the OpenAPI document: what it does, its parameters, the fields of its body and of its answer."""
    document = create_app(Settings(), _CHECKPOINT, FakeEngine()).openapi()
    parts = [
        "# The HTTP routes\n",
        "The running service tells the same at `/docs`, and as OpenAPI at `/openapi.json`. A failure is always"
        '\n`{"error": {"code", "message", "request_id"}}`; the codes are in [what a request may cost](limits.md) and in'
        "\n`service/errors.py`. A field with * must be given.\n",
    ]
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            parts.append("\n".join(_route(f"{method.upper()} {path}", route, document["components"]["schemas"])))
    return _NOTE + "\n".join(parts)


def _route(name: str, route: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    yield f"## {name}\n"
    yield f"{route.get('description') or route.get('summary', '')}\n"
    if parameters := route.get("parameters"):
        yield "| parameter | in | type | what |"
        yield "|---|---|---|---|"
        for each in parameters:
            star = "*" if each.get("required") else ""
            yield f"| `{each['name']}`{star} | {each['in']} | {_type(each['schema'])} | {_text(each)} |"
        yield ""
    contents = route.get("requestBody", {}).get("content", {})
    shown: list[Any] = []
    for kind, content in contents.items():
        if content["schema"] not in shown:
            shown.append(content["schema"])
            yield from _fields(f"body, {kind}", content["schema"], schemas)
    for status, answer in route["responses"].items():
        if status != "default":
            for kind, content in answer.get("content", {}).items():
                yield from _fields(f"answer {status}, {kind}", content.get("schema", {}), schemas)


def _fields(title: str, schema: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    schema = schemas[_last(schema["$ref"])] if "$ref" in schema else schema
    if not (properties := schema.get("properties")):
        return
    yield f"| {title} | type | what |"
    yield "|---|---|---|"
    for name, field in properties.items():
        star = "*" if name in schema.get("required", ()) else ""
        yield f"| `{name}`{star} | {_type(field)} | {_text(field)} |"
    yield ""


def _last(reference: str) -> str:
    return reference.rpartition("/")[2]


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return _last(schema["$ref"])
    if several := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(_type, several)))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        most = f", at most {schema['maxItems']}" if "maxItems" in schema else ""
        return f"list of {_type(schema.get('items', {}))}{most}"
    return str(schema.get("type", "any"))


def _text(field: dict[str, Any]) -> str:
    text = " ".join(str(field.get("description", "")).split()).replace("|", "\\|").replace("<", "&lt;")
    default = field.get("default", field.get("schema", {}).get("default"))
    return f"{text} (default `{default}`)".strip() if default not in (None, "", [], {}) else text


def metrics() -> str:
    """Every series of our own at `/metrics`: name, kind, labels and meaning."""
    rows = [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |"
        for name, kind, labels, text in sorted(_series(Metrics()))
    ]
    return _NOTE + "\n".join(
        [
            "# The metrics\n",
            "Series of the service at `/metrics`; vLLM's own (`vllm:*`) stand beside them there. Who may not see all"
            "\nadapters is shown totals without the labels `adapter` and `version`. `adapter` is the name of a served"
            "\nadapter, or empty for the base. Not in this table, one for each version in the engine:"
            "\n`vqa_adapter_resident`, `vqa_adapter_score`, `vqa_adapter_stable`, `vqa_version_feedback`,"
            "\n`vqa_version_requests_total` and `vqa_version_request_seconds` ([the loop](../how-to/loop.md))."
            "\nAlerts over all these have a [runbook](../how-to/alerts.md) each.\n",
            "| series | kind | labels | what it tells |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _series(made: Metrics) -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    for each in vars(made).values():
        if isinstance(each, MetricWrapperBase):
            for family in each.describe():
                name = f"{family.name}_total" if family.type == "counter" else family.name
                yield name, family.type, each._labelnames, family.documentation


PAGES: dict[str, Callable[[], str]] = {"command-line.md": command_line, "http.md": http, "metrics.md": metrics}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (FOLDER / page).write_text(make())
