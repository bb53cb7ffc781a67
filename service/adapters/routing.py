"""Which version answers for what a question calls its adapter? Pure: a catalog and a reference in, a version out."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict

from service.adapters.aliases import STABLE, Aliases
from service.errors import AdapterNotFound, AdapterUnknown

MOST_TOLD = 10  # names in the message of a 404
PREFIX = 8  # digits of a version that are enough to name it, where they are unique


@dataclass(frozen=True, slots=True)
class Shelf:
    """One adapter: its versions, and the names they go by."""

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
            ValueError: it says something else.
        """
        return cls.model_validate(json.loads(text))


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that can be named; `faults` says why an entry cannot be read, `deleted` whose files wait to go."""

    shelves: Mapping[str, Shelf] = field(default_factory=dict)
    routers: Mapping[str, Router] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    deleted: frozenset[str] = frozenset()

    def names(self) -> list[str]:
        """What may stand in a question's `adapter`, sorted."""
        served = (name for name, shelf in self.shelves.items() if STABLE in shelf.aliases.named)
        return sorted([*served, *self.routers])

    def named(self) -> set[tuple[str, str]]:
        """Every adapter's versions that an alias names."""
        shelves = self.shelves.items()
        return {(name, alias.version) for name, shelf in shelves for alias in shelf.aliases.named.values()}


def route(catalog: Catalog, reference: str, pictures: bool, key: str | None) -> tuple[str, str]:
    """The adapter and version that `NAME`, `NAME@ALIAS` or `NAME@VERSION` (eight digits or more of it) means.

    A bare name is shared out between its stable version and its weighted aliases by `key`, or by chance without one.

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
    return name, version_of(name, shelf, wanted)


def some(names: Sequence[str]) -> str:
    """The first of many names for a sentence, and how many more there are."""
    more = f" and {len(names) - MOST_TOLD:,} more: GET /v1/models lists them" if len(names) > MOST_TOLD else ""
    return f"{', '.join(names[:MOST_TOLD])}{more}"


def version_of(name: str, shelf: Shelf, wanted: str) -> str:
    """The version of one adapter that an alias, or the front of a version, means.

    Raises:
        AdapterNotFound: none, or several.
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


def switch(wanted: Catalog, served: Catalog, proven: Callable[[tuple[str, str]], bool]) -> Catalog:
    """What to serve now: what is wanted, save that an alias whose new version is not proven keeps its old one."""
    shelves: dict[str, Shelf] = {}
    for name, shelf in wanted.shelves.items():
        before = served.shelves[name].aliases.named if name in served.shelves else {}
        wishes = shelf.aliases.named
        ready = {alias: wish for alias, wish in wishes.items() if proven((name, wish.version))}
        named = {alias: ready.get(alias) or before[alias] for alias in wishes if alias in ready or alias in before}
        shelves[name] = Shelf(shelf.aliases.model_copy(update={"named": named}), shelf.versions)
    return replace(wanted, shelves=shelves)


def _side(name: str, key: str | None) -> float:
    if key is None:
        return random.random()
    digest = hashlib.blake2b(f"{name}\0{key}".encode(errors="surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53
