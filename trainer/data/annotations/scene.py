"""What annotations say of one picture, whatever tool wrote them; knows no questions and no files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Box(NamedTuple):
    """Where a thing is: fractions of the picture's width and height, from its left and top edge."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """The box's width as a fraction of the picture's, 0 to 1."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """The box's height as a fraction of the picture's, 0 to 1."""
        return self.bottom - self.top


@dataclass(frozen=True, slots=True)
class Thing:
    """One annotated thing; without a box it is counted and not placed.

    `certain` is False for a crowd and what was marked difficult: it is neither counted nor placed, and its class is not
    said to be absent.
    """

    name: str
    box: Box | None = None
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture's things, or its one label, or its row of a table (`facts`: column and value).

    `image` is its name below the image folder, `size` its width and height in pixels as the annotations give them.
    """

    image: str
    things: tuple[Thing, ...] = ()
    size: tuple[int, int] | None = None
    label: str = ""
    facts: tuple[tuple[str, str], ...] = ()


class SceneSource(Protocol):
    """A set of annotations: the classes that it tells apart, and its scenes, read one by one."""

    @property
    def names(self) -> Sequence[str]:
        """Every class of the set; for a table, nothing."""

    @property
    def scenes(self) -> Iterable[Scene]:
        """The pictures, in a fixed order; faults of single ones are noted in the report of the reader."""


def box_of(left: float, top: float, right: float, bottom: float) -> Box | None:
    """The part of a box that is on the picture; None: nothing is, or a side is no number. Fractions, as `Box`."""
    inside = Box(*(min(max(side, 0.0), 1.0) for side in (left, top, right, bottom)))
    return inside if inside.left < inside.right and inside.top < inside.bottom else None
