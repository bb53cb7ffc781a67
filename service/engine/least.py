"""The least JSON that fits a schema, for the engine without a model; it knows the keywords that tests use."""

import json
from typing import Any

from service.errors import FormatRefused

_LEAST = {"string": "", "integer": 0, "number": 0, "boolean": False, "null": None}


def fitting(schema: str) -> str:
    """JSON text that fits a schema, given as JSON text.

    Raises:
        FormatRefused: a type that JSON does not have, or a reference that leads nowhere.
    """
    whole = json.loads(schema)
    return json.dumps(_least(whole, whole), separators=(",", ":"))


def _least(schema: Any, whole: Any) -> Any:
    if "$ref" in schema:
        return _least(_follow(schema["$ref"], whole), whole)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return _least(schema[several][0], whole)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: _least(schema["properties"][name], whole) for name in schema.get("required", ())}
    if kind == "array":
        return [_least(schema["items"], whole)] * schema.get("minItems", 0)
    if kind not in _LEAST:
        raise FormatRefused(f"response_format: no answer can be held to this schema: unsupported type {kind!r}")
    return _LEAST[kind]


def _follow(reference: str, whole: Any) -> Any:
    found = whole
    for name in reference.removeprefix("#/").split("/"):
        if name not in found:
            raise FormatRefused(f"response_format: {reference} leads nowhere")
        found = found[name]
    return found
