"""docs/reference/cases.md is true: every case is there, and its tests exist and speak of its status."""

import ast
import re
from collections.abc import Iterator

import pytest

from service.errors import ServiceError
from tests.conftest import ROOT

CASES = range(1, 51)
# Of the second table, whose cases were seen in the wild, the numbers begin with a w.
ROW = re.compile(r"\| (w?\d+) [^|]+ \| ([\d/]+) \| ([^|]+) \|")
LINES = (ROOT / "docs/reference/cases.md").read_text().splitlines()
ROWS = [match.groups() for match in map(ROW.fullmatch, LINES) if match]


def sources() -> Iterator[tuple[str, str]]:
    """Every test of the tree as the table names it, and its source."""
    for file in (ROOT / "tests").rglob("test_*.py"):
        lines = file.read_text().splitlines()
        for node in ast.parse("\n".join(lines)).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                first = min(decorator.lineno for decorator in [*node.decorator_list, node])
                yield f"{file.relative_to(ROOT / 'tests')}::{node.name}", "\n".join(lines[first - 1 : node.end_lineno])


def errors(kind: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    for child in kind.__subclasses__():
        yield child
        yield from errors(child)


TESTS = dict(sources())


def test_every_case_is_in_the_table_once_and_in_order() -> None:
    assert [int(number) for number, _, _ in ROWS if number.isdecimal()] == list(CASES)


def test_every_case_of_the_wild_is_in_its_table_once_and_in_order() -> None:
    wild = [int(number[1:]) for number, _, _ in ROWS if number.startswith("w")]
    assert wild == sorted(set(wild))
    assert wild


@pytest.mark.parametrize(("case", "statuses", "names"), ROWS)
def test_the_tests_of_a_case_exist_and_speak_of_its_status(case: str, statuses: str, names: str) -> None:
    named = re.findall(r"`([^`]+)`", names)
    assert named
    assert [name for name in named if name not in TESTS] == []
    text = "\n".join(TESTS[name] for name in named)
    for status in map(int, statuses.split("/")):
        words = [
            str(status),
            *(word for error in errors() if error.status == status for word in (error.__name__, error.code)),
        ]
        assert status == 200 or re.search(rf"\b({'|'.join(words)})\b", text), status


def test_every_fault_of_the_trainer_has_tests_that_exist() -> None:
    text = (ROOT / "docs/reference/trainer-cases.md").read_text()
    rows = re.findall(r"^\| t(\d+) [^|]+ \| [^|]+ \| ([^|]+) \|$", text, re.M)
    assert [int(number) for number, _ in rows] == list(range(1, 30))
    named = [name for _, names in rows for name in re.findall(r"`([^`]+)`", names)]
    assert [name for name in named if name not in TESTS] == []
