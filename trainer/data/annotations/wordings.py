"""The wordings of questions and the words that fill them, from a TOML file (templates.toml where none is given)."""

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import Any

from trainer.data import files
from trainer.errors import OptionError

DEFAULT = Path(__file__).parent / "templates.toml"
_ONE = frozenset(("name", "a_name", "plural"))
_TWO = frozenset(("first", "second", "a_first", "a_second", "firsts", "seconds"))
_PAIRS = ("left_of", "right_of", "above", "below", "larger", "smaller", "which_larger", "more")
# What may stand in braces, by the kind of question.
FIELDS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("what", "label"), frozenset()),
    **dict.fromkeys(("count", "exists", "side", "height", "is_label"), _ONE),
    **dict.fromkeys(_PAIRS, _TWO),
    "fact": frozenset(("column",)),
    **dict.fromkeys(("fact_is", "fact_more"), frozenset(("column", "value"))),
}
_TABLES = ("plurals", "articles", "names", "alike")
_VOWELS = "aeiou"


@dataclass(frozen=True)
class Wordings:
    """`by_kind` has the wordings; the other fields are the file's tables of words."""

    by_kind: dict[str, tuple[str, ...]]
    plurals: dict[str, str]
    articles: dict[str, str]
    names: dict[str, str]
    groups: tuple[frozenset[str], ...]

    @classmethod
    def read(cls, file: str | None) -> "Wordings":
        """The wordings of `file`; None: those of templates.toml beside this module.

        Raises:
            OptionError: it is not TOML, or has a kind of question, a field in braces or a table of words that is not
            known. DataError: it cannot be read.
        """
        where = f"--templates {file}" if file else str(DEFAULT)
        try:
            content = tomllib.loads(files.read(file or str(DEFAULT)).decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise OptionError(f"{where}: not TOML: {error}") from error
        by_kind = {kind: _checked(where, kind, content[kind]) for kind in content if kind not in _TABLES}
        words = {table: _words(where, table, content.get(table, {})) for table in _TABLES[:3]}
        return cls(by_kind, **words, groups=_groups(where, content.get("alike", {})))

    def spoken(self, name: str) -> str:
        """A class as questions call it: renamed by the file, or its underscores read as spaces."""
        return self.names.get(name) or " ".join(name.replace("_", " ").split())

    def alike(self, name: str) -> frozenset[str]:
        """The classes that may be said of the same thing, by the file's groups: `name` and its other names."""
        return self._alike.get(name, frozenset((name,)))

    @cached_property
    def _alike(self) -> dict[str, frozenset[str]]:
        return {name: group for group in self.groups for name in group}

    def one(self, name: str) -> dict[str, str]:
        """The fields of a question about one class, by its spoken name."""
        return {"name": name, "a_name": self._a(name), "plural": self._plural(name)}

    def two(self, first: str, second: str) -> dict[str, str]:
        """The fields of a question about two classes, by their spoken names."""
        return {
            "first": first, "a_first": self._a(first), "firsts": self._plural(first),
            "second": second, "a_second": self._a(second), "seconds": self._plural(second),
        }  # fmt: skip

    def _a(self, name: str) -> str:
        article = self.articles.get(name) or self.articles.get(name.split()[0])
        return f"{article or ('an' if name[0].lower() in _VOWELS else 'a')} {name}"

    def _plural(self, name: str) -> str:
        """Of the last word, which is the noun: traffic light, traffic lights."""
        before, _, noun = name.rpartition(" ")
        many = self.plurals.get(name) or self.plurals.get(noun)
        if not many:
            if noun.endswith(("s", "x", "z", "ch", "sh")):
                many = f"{noun}es"
            elif noun.endswith("y") and noun[-2:-1] not in (*_VOWELS, ""):
                many = f"{noun[:-1]}ies"
            else:
                many = f"{noun}s"
        return f"{before} {many}".strip() if name not in self.plurals else many


def _checked(where: str, kind: str, table: Any) -> tuple[str, ...]:
    if kind not in FIELDS:
        raise OptionError(f"{where}: [{kind}] is no kind of question: there are {', '.join(FIELDS)}")
    wordings = table.get("wordings") if isinstance(table, dict) else None
    if not isinstance(wordings, list) or not all(isinstance(each, str) and each.strip() for each in wordings):
        raise OptionError(f"{where}: [{kind}] needs wordings, a list of texts: leave the kind out to ask none")
    for wording in wordings:
        try:
            found = {field for _, field, _, _ in Formatter().parse(wording) if field is not None}
        except ValueError as error:
            raise OptionError(f"{where}: [{kind}] {wording!r}: {error}") from error
        if found - FIELDS[kind]:
            known = ", ".join(f"{{{field}}}" for field in sorted(FIELDS[kind])) or "none"
            raise OptionError(f"{where}: [{kind}] {wording!r}: braces may hold {known}")
    return tuple(dict.fromkeys(wordings))


def _words(where: str, name: str, table: Any) -> dict[str, str]:
    if not isinstance(table, dict) or not all(isinstance(value, str) and value for value in table.values()):
        raise OptionError(f'{where}: [{name}] is not a table of words such as person = "people"')
    return dict(table)


def _groups(where: str, table: Any) -> tuple[frozenset[str], ...]:
    groups = table.get("groups", []) if isinstance(table, dict) else None
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        raise OptionError(f'{where}: [alike] groups is not a list of lists such as [["sofa", "couch"]]')
    return tuple(frozenset(map(str, group)) for group in groups)
