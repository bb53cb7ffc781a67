"""Finds the version that a question's adapter name leads to, in a catalog. Pure but for a random draw."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from service.adapters.aliases import STABLE, Alias, Aliases
from service.errors import AdapterNotFound, AdapterUnknown
from service.types import Release

MOST_TOLD = 10  # names in the message of a 404
PREFIX = 8  # a version may be named by so many of its first digits or more, where they are unique
HISTORY = 8  # former versions of an alias that are tried, newest first, when its own is refused


@dataclass(frozen=True, slots=True)
class Shelf:
    """One adapter of a catalog: its versions and its aliases."""

    aliases: Aliases
    versions: frozenset[str]


class Router(BaseModel):
    """A name that stands for one adapter when a question has an image, and for another when it has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str | None = None
    text: str | None = None

    @classmethod
    def parse(cls, text: bytes) -> "Router":
        """Read `{"image": "shapes", "text": "facts@canary"}`.

        Raises:
            ValueError: `text` has another form.
        """
        return cls.model_validate(json.loads(text))


class Standing(Enum):
    """Whether a version may serve: it was proven, was not judged yet, or was refused or failed."""

    PROVEN = "proven"
    UNKNOWN = "unknown"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an entry of the store is no adapter that can be asked: `reason` for programs, `message` with what to do."""

    reason: str
    message: str


@dataclass(frozen=True)
class Catalog:
    """The entries of a store by name: adapters (`shelves`), routers, and why an entry is neither (`faults`).

    `deleted` are adapters that were deleted, whose files are still there.
    """

    shelves: Mapping[str, Shelf] = field(default_factory=dict)
    routers: Mapping[str, Router] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)
    deleted: frozenset[str] = frozenset()

    @cached_property
    def every(self) -> tuple[str, ...]:
        """The names of all entries but deleted ones, sorted."""
        return tuple(sorted(self.shelves.keys() | self.routers.keys() | self.faults.keys()))

    @cached_property
    def pinned(self) -> frozenset[str]:
        """The adapters whose versions stay loaded."""
        return frozenset(name for name, shelf in self.shelves.items() if shelf.aliases.pinned)

    def held(self) -> int:
        """How many adapters and routers the store has, counting those that cannot be read now."""
        unread = (fault for fault in self.faults.values() if fault.reason in ("store", "aliases"))
        return len(self.shelves) + len(self.routers) + sum(1 for _ in unread)

    def names(self) -> list[str]:
        """The names that a question's `adapter` may have, sorted."""
        return [name for name in self.every if name in self.routers or self._serves(name)]

    def named(self, name: str) -> set[str]:
        """The versions of one adapter that its aliases name."""
        shelf = self.shelves.get(name)
        return {alias.version for alias in shelf.aliases.named.values()} if shelf else set()

    def _serves(self, name: str) -> bool:
        return name in self.shelves and STABLE in self.shelves[name].aliases.named


class Route(NamedTuple):
    """What a reference leads to: an adapter's name, its version, and what chose the version."""

    name: str
    version: str
    release: Release


def route(catalog: Catalog, reference: str, pictures: bool, key: str | None) -> Route:
    """The adapter and version that `NAME`, `NAME@ALIAS` or `NAME@VERSION` (eight digits or more of it) means.

    A name alone leads to stable or to an alias with a weight, by a hash of `key`, or at random where it is None. For a
    router's name, `pictures` says which of its two adapters is taken.

    Raises:
        AdapterNotFound: nothing goes by that name.
    """
    if router := catalog.routers.get(reference):
        kind = "image" if pictures else "text"
        member = router.image if pictures else router.text
        if member is None:
            raise AdapterNotFound(f"router {reference!r} names no adapter for {kind} questions")
        reference = member
    name, at, wanted = reference.partition("@")
    shelf = catalog.shelves.get(name)
    if shelf is None or (not at and STABLE not in shelf.aliases.named):
        raise AdapterUnknown(f"no adapter {reference[:64]!r}")
    if not at:
        wanted = shelf.aliases.choose(_side(name, key))
    release: Release = "stable" if wanted == STABLE else "canary" if wanted in shelf.aliases.named else "pinned"
    return Route(name, version_of(name, shelf, wanted), release)


def some(names: Sequence[str]) -> str:
    """The first MOST_TOLD names, separated by commas for a message, and how many more there are."""
    more = f" and {len(names) - MOST_TOLD:,} more: GET /v1/models lists them" if len(names) > MOST_TOLD else ""
    return f"{', '.join(names[:MOST_TOLD])}{more}"


def version_of(name: str, shelf: Shelf, wanted: str) -> str:
    """The version that `wanted` names: an alias, or the first digits of a version (PREFIX or more).

    Raises:
        AdapterNotFound: it names no version, or several.
    """
    if alias := shelf.aliases.named.get(wanted):
        return alias.version
    fitting = [version for version in shelf.versions if version.startswith(wanted)] if len(wanted) >= PREFIX else []
    if len(fitting) > 1:
        raise AdapterNotFound(f"{len(fitting)} versions of {name} start with {wanted}: give more of it")
    if not fitting:
        there = f"aliases: {', '.join(sorted(shelf.aliases.named)) or 'none'}"
        raise AdapterNotFound(
            f"{name} has no alias or version {wanted[:64]!r}; {there}; versions go by {PREFIX} digits"
        )
    return fitting[0]


def serve(
    wanted: Shelf, before: Mapping[str, Alias], standing: Callable[[str], Standing], in_use: Callable[[str], bool]
) -> Shelf:
    """One adapter as it is served: as the store has it, but with aliases led away from versions that are not proven.

    An alias moves to its new version once that is proven. Until then it stays with the version `before`, if that is in
    use here; if not, it moves at once, and its next question has the new version proven first. Where the new version
    failed or was refused, the alias leads to the one before, else to the last of its former versions that did not. An
    alias for which there is none is left out. `standing` and `in_use` tell of a version's digest.
    """
    named: dict[str, Alias] = {}
    for alias, wish in wanted.aliases.named.items():
        old = before.get(alias)
        state = standing(wish.version)
        if state is Standing.UNKNOWN and old and old.version != wish.version and in_use(old.version):
            state, past = Standing.BAD, [old.version]
        else:
            history = reversed(wanted.aliases.previous.get(alias, ())[-HISTORY:])
            past = [*([old.version] if old else ()), *(version for version in history if version in wanted.versions)]
        choices = past if state is Standing.BAD else [wish.version]
        chosen = next((version for version in choices if standing(version) is not Standing.BAD), None)
        if chosen is not None:
            named[alias] = wish if chosen == wish.version else Alias(version=chosen, weight=wish.weight)
    if named == wanted.aliases.named:
        return wanted
    return Shelf(wanted.aliases.model_copy(update={"named": named}), wanted.versions)


def _side(name: str, key: str | None) -> float:
    if key is None:
        return random.random()
    digest = hashlib.blake2b(f"{name}\0{key}".encode(errors="surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53
