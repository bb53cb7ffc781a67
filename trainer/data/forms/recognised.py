"""What a recogniser says of a file: its form, on what evidence, and how to get its records."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from trainer.config.reading import Form

# How many of the first records a form is recognised by.
FIRST = 20


@dataclass(frozen=True, slots=True)
class Record:
    """A record as record.py reads it: `number` counts from 1, `where` is its line, or more where that says too little.

    `value` is a mapping where all is well; whatever else a file holds in a record's place is passed on to be named.
    """

    number: int
    where: str
    value: Any


@dataclass(frozen=True, slots=True)
class Recognised:
    """A form and the evidence for it, in words; `records` begins to read the file anew each time it is called.

    `known` are folded keys of the form that change nothing in a row; `mended` are the rules by which the file as a
    whole was read in another way than it is written. `lines` says that each line of the file is a record, so that a row
    is found by its offset. `convert` makes a record of the form one that record.py reads. `category` is that of rows
    that name none. `folder` is where the images lie, where the set says so itself.
    """

    form: Form
    evidence: str
    records: Callable[[], Iterator[Record]]
    known: frozenset[str] = frozenset()
    mended: tuple[str, ...] = ()
    lines: bool = False
    convert: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    category: str | None = None
    folder: str | None = None

    def of_folder(self, folder: str, evidence: str) -> "Recognised":
        """The same, with pictures that lie in the set's own folder."""
        return replace(self, folder=folder, evidence=evidence, lines=False)

    def __str__(self) -> str:
        return f"form: {self.form} ({self.evidence})"
