"""Rules in CEL, which a CustomResourceDefinition has beside its schema as `x-kubernetes-validations`.

An object is held to them as an API server does it: with defaults filled in, at every place that has rules. Rules about
a change (`oldSelf`) are passed over: there is no object before this one. A rule that cannot be evaluated is a fault.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import celpy
from celpy.celparser import CELParseError
from celpy.evaluation import CELEvalError

Object = dict[str, Any]


# CEL's own words: a field that is called so goes by __field__ in a rule.
_RESERVED = frozenset(
    ("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop",
     "namespace", "null", "package", "return", "true", "var", "void", "while")
)  # fmt: skip


def broken_rules(value: Any, schema: Object) -> Iterator[str]:
    """What each rule says that `value` does not keep, with its place in the object."""
    yield from _broken(_filled(value, schema), schema, "")


def _broken(value: Any, schema: Object, path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and (said := _says(rule["rule"], value)) is not True:
            yield f"{path or '.'}: {said or rule.get('message') or rule['rule']}"
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _broken(inner, _below(schema, key), f"{path}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _broken(inner, _below(schema), f"{path}[{number}]")


def _below(schema: Object, key: str | None = None) -> Object:
    """The schema of a property, or of a list's items."""
    found = (
        schema.get("items")
        if key is None
        else schema.get("properties", {}).get(key, schema.get("additionalProperties"))
    )
    return found if isinstance(found, dict) else {}


def _filled(value: Any, schema: Object) -> Any:
    """A value with all defaults."""
    if isinstance(value, list):
        return [_filled(each, _below(schema)) for each in value]
    if not isinstance(value, dict):
        return value
    given = {key: inner["default"] for key, inner in schema.get("properties", {}).items() if "default" in inner}
    return {key: _filled(inner, _below(schema, key)) for key, inner in (given | value).items()}


def _escaped(value: Any) -> Any:
    if isinstance(value, list):
        return [_escaped(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {f"__{key}__" if key in _RESERVED else key: _escaped(inner) for key, inner in value.items()}


def _says(rule: str, value: Any) -> bool | str:
    """Whether a rule holds, or why it could not be evaluated."""
    try:
        return bool(_program(rule).evaluate({"self": celpy.json_to_cel(_escaped(value))}))
    except (CELParseError, CELEvalError) as error:
        return f"{rule!r} cannot be evaluated: {str(error)[:200]}"


@cache
def _program(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
