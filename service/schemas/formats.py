"""OpenAI's `response_format`: JSON schemas that an answer is made to fit, and the limits that a schema has to keep."""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from service.errors import FormatRefused
from service.schemas import Incoming

# Limits within which a schema compiles to a grammar in some 0.1 s of one core. Beyond them, time grows with the square
# or faster: 2,000 optional properties, or lengths that come to 400 million, took over 5 s, and the compiler cannot be
# stopped.
MOST_BYTES, MOST_LEVELS, MOST_PARTS, MOST_STEPS, MOST_COUNTED = 16_384, 32, 512, 256, 50_000
# Keywords that the grammar's compiler ignores, so that an answer might not fit the schema.
_UNKNOWN = (
    "$dynamicRef",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "not",
    "then",
    "unevaluatedItems",
)
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_ONE = ("items", "additionalItems", "additionalProperties", "propertyNames", "contains", "unevaluatedProperties")
# One step of a regular expression, or a mark of repetition or grouping.
# It backtracks nowhere, so that a hostile pattern takes no longer to count than any other of its length.
_PIECE = re.compile(r"\\.|\[(?:\\.|[^\]\\])*+(?:\]|\\?\Z)|\{(?P<least>\d*+)(?:,(?P<most>\d*+))?\}|.", re.DOTALL)
_CLASS = 16  # characters of a class, as in [a-z0-9_], that cost a step
_AROUND = re.compile(r"\(\?(?!:)|\\[1-9bB]")


class TextFormat(Incoming):
    """An answer in plain text."""

    type: Literal["text"]


class ObjectFormat(Incoming):
    """An answer that is a JSON object: any, or one that fits a schema, as Hugging Face's clients send one."""

    type: Literal["json_object"]
    schema_: Annotated[dict[str, Any] | None, Field(validation_alias=AliasChoices("schema", "value"))] = None


class NamedSchema(Incoming):
    """A JSON schema; the answer is made to fit it whether `strict` is true or not."""

    name: Annotated[str | None, Field(max_length=200)] = None
    description: Annotated[str | None, Field(max_length=MOST_BYTES)] = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class SchemaFormat(Incoming):
    """An answer that is JSON and fits a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


def schema_of(wanted: TextFormat | ObjectFormat | SchemaFormat | None) -> str | None:
    """The JSON schema that an answer is to fit, as JSON text; None: an answer in plain text.

    Raises:
        FormatRefused: a schema over its bounds, or with a keyword that an answer cannot be held to.
    """
    if wanted is None or isinstance(wanted, TextFormat):
        return None
    schema = wanted.schema_ if isinstance(wanted, ObjectFormat) else wanted.json_schema.schema_
    if schema is None:
        return '{"type":"object"}'
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode(errors="replace")) > MOST_BYTES:
        raise _refused(f"the schema has over {MOST_BYTES:,} bytes")
    steps, counted = 0, 0.0
    for number, part in enumerate(_parts(schema)):
        _check_keywords(part)
        counted += sum(_number(part.get(name)) for name in _COUNTS)
        if number >= MOST_PARTS or counted > MOST_COUNTED:
            raise _refused(
                f"it has over {MOST_PARTS} schemas within it, or its lengths and counts come to over {MOST_COUNTED:,}"
            )
        patterns = [part.get("pattern"), *(part.get("patternProperties") or ())]
        steps += sum(_steps(pattern) for pattern in patterns if isinstance(pattern, str))
        if steps > MOST_STEPS:
            raise _refused(
                f"its patterns, repetitions written out, come to over {MOST_STEPS} characters: "
                "bound a length by maxLength rather than by a pattern"
            )
    return text


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and every schema within it."""
    found = [(schema, 0)]
    while found:
        part, level = found.pop()
        if level > MOST_LEVELS:
            raise _refused(f"the schema is nested over {MOST_LEVELS} levels deep")
        if not isinstance(part, dict):
            continue
        yield part
        within = [part[name] for name in _ONE if name in part]
        for names in (part[name] for name in _BY_NAME if isinstance(part.get(name), dict)):
            within += names.values()
        for each in (part[name] for name in _LISTS if isinstance(part.get(name), list)):
            within += each
        found += [(each, level + 1) for each in within]


def _check_keywords(part: dict[str, Any]) -> None:
    if unknown := [name for name in _UNKNOWN if name in part]:
        raise _refused(f"the keyword {unknown[0]} is not known here")
    if "properties" in part and ("minProperties" in part or "maxProperties" in part):
        raise _refused("the keywords minProperties and maxProperties are not known beside properties")
    reference = part.get("$ref")
    if reference is not None and not (isinstance(reference, str) and reference.startswith("#")):
        raise _refused("a $ref must lead to another place of the same schema, as in #/$defs/Name")
    if isinstance(part.get("pattern"), str) and _AROUND.search(part["pattern"]):
        raise _refused("a pattern may not look around, refer back or name a word's edge")


def _steps(pattern: str) -> int:
    """How many steps a regular expression has with its counted repetitions written out; a{3} has three."""
    open_groups, last = [0], 0
    for piece in _PIECE.finditer(pattern):
        if piece[0] == "(":
            open_groups.append(0)
        elif piece[0] == ")" and len(open_groups) > 1:
            last = open_groups.pop()
            open_groups[-1] += last
        elif piece["least"] is not None:
            times = max(1, *(_count(piece[name]) for name in ("least", "most")))
            open_groups[-1] += last * (times - 1)
            last *= times
        else:
            last = 1 + len(piece[0]) // _CLASS
            open_groups[-1] += last
    return sum(open_groups)


def _number(value: Any) -> float:
    return abs(value) if isinstance(value, int | float) else 0


def _count(digits: str | None) -> int:
    return int((digits or "0")[:7])


def _refused(why: str) -> FormatRefused:
    return FormatRefused(f"response_format: {why}")
