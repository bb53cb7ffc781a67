"""The values of a JSON file one by one: of a list, of an object, or several behind one another; memory holds one.

Each comes with the line it begins on. The standard library's scanner reads them; where it meets the end of what was
read so far, more is read, up to text.LONGEST characters.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from trainer.data.forms.text import LONGEST, Text
from trainer.errors import DataError

_BLOCK = 1 << 18
_SPACE = re.compile(r"[ \t\n\r]*")
_SPACE_AND_COMMAS = re.compile(r"[ \t\n\r,]*")
_COMMENT = re.compile(r"(?://|#)[^\n]*\n?")


class Broken(ValueError):
    """Text that is not JSON: `line` is where, the message what."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


@dataclass(frozen=True, slots=True)
class Member:
    """A value: on which line it begins, and the key of the outer object it stands under, "" if there is none."""

    line: int
    key: str
    value: Any


class Scanner:
    """Reads the values of a text file one by one; every method raises Broken where the text is not JSON."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._line = 1
        self._ended = False
        self._decoder = json.JSONDecoder()

    def list_or_values(self) -> Iterator[Member]:
        """The elements of a list, or values that stand behind one another with or without commas between them."""
        if self.peek() == "[":
            yield from self._elements("")
            if self.peek():
                raise Broken(self._line, "text behind the end of the list")
            return
        while self._skip(_SPACE_AND_COMMAS):
            line = self._line
            yield Member(line, "", self.value())

    def members(self) -> Iterator[Member]:
        """The members of one object; of a member that is a list of objects, each element."""
        self._expect("{")
        first = True
        while self._goes_on("}", first):
            first = False
            line, key = self._line, self.value()
            if not isinstance(key, str):
                raise Broken(line, "an object's key is not text")
            self._expect(":")
            if self.peek() == "[":
                yield from self._elements(key)
            else:
                line = self._line
                yield Member(line, key, self.value())

    def value(self) -> Any:
        """The value that begins here."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._more():
                    continue
                line = self._line + self._text.count("\n", self._at, error.pos)
                cut = ": the file ends here, cut off" if error.pos >= len(self._text.rstrip()) else ""
                raise Broken(line, f"{error.msg}{cut}") from error
            except RecursionError as error:
                raise Broken(self._line, "nested too deep") from error
            except ValueError as error:  # a number of thousands of digits
                raise Broken(self._line, str(error)) from error
            if end == len(self._text) and not self._ended and self._more():
                continue  # a number may go on
            self._take(end - self._at)
            return value

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        return self._skip(_SPACE)

    def _elements(self, key: str) -> Iterator[Member]:
        self._expect("[")
        first = True
        while self._goes_on("]", first):
            first = False
            line = self._line
            yield Member(line, key, self.value())

    def _goes_on(self, end: str, first: bool) -> bool:
        """Whether another element or member follows, its comma taken; the closing `end` is taken too."""
        next_ = self.peek()
        if next_ == end:
            self._take(1)
            return False
        if not next_:
            raise Broken(self._line, f"{end!r} is missing: the file is cut off")
        if not first:
            self._expect(",")
            if self.peek() == end:
                raise Broken(self._line, f"a comma before {end!r}: delete it")
        return True

    def _expect(self, character: str) -> None:
        if self.peek() != character:
            raise Broken(self._line, f"expecting {character!r}")
        self._take(1)

    def _skip(self, space: re.Pattern[str]) -> str:
        while True:
            found = space.match(self._text, self._at)
            end = found.end() if found else self._at
            self._take(end - self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _take(self, length: int) -> None:
        self._line += self._text.count("\n", self._at, self._at + length)
        self._at += length

    def _more(self) -> bool:
        """Read another block, and drop the text that was taken; False at the end of the file."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        if len(rest) > LONGEST:
            raise Broken(self._line, f"a record of more than {LONGEST:,} characters")
        block = self._file.read(max(_BLOCK, len(rest)))
        self._ended = not block
        self._text, self._at = rest + block, 0
        return bool(block)


@contextmanager
def scanning(found: Text) -> Iterator[Scanner]:
    """A scanner over a whole file.

    Raises:
        DataError: the file cannot be read, or holds text that is not JSON, whose line is named.
    """
    with found.opened() as file:
        try:
            yield Scanner(file)
        except Broken as error:
            raise DataError([f"{found.url}:{error.line}: not JSON: {error}"]) from error


def under(found: Text, key: str) -> Iterator[Member]:
    """What a file's one object holds under a key, element by element.

    Raises:
        DataError: as `scanning`.
    """
    with scanning(found) as scanner:
        yield from (member for member in scanner.members() if member.key == key)
