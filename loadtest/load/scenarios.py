"""The scenarios: which requests are sent. Used by `make bench-load`, by Locust and by the recipe for a GPU."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtest import faces, pictures
from loadtest.client import with_key

# The exponent of Zipf's law: the most asked adapter of 200 gets 17% of the requests, the first ten half of them.
_SKEW = 1.0
QUESTIONS = ("what color is the shape?", "what shape is in the image?", "is there a circle?", "what is in the picture?")
TENANTS = {"shop": "key-of-shop", "lab": "key-of-lab", "archive": "key-of-archive"}


@dataclass(frozen=True)
class WireRequest:
    """The bytes of one request, and the adapter or tenant that it counts for in the results (empty: neither)."""

    content: bytes
    flow: str = ""


@dataclass(frozen=True)
class Scenario:
    """One scenario: `make` makes a request of its number and a random generator.

    Answers within `bound_s` seconds count as goodput. With `keys` it needs a service with the keys of `keys_file`.
    `first` are requests sent once before the measurement, since an adapter is proven when it is first asked.
    """

    name: str
    what: str
    make: Callable[[int, random.Random], WireRequest]
    bound_s: float = 1.0
    keys: bool = False
    first: tuple[bytes, ...] = ()


def scenarios(names: Sequence[str] = ("shapes",)) -> dict[str, Scenario]:
    """All scenarios by name; `names` are the store's adapters. Scenarios that need more adapters are left out."""
    found = [
        Scenario("small", "one small picture, the base", lambda n, _: WireRequest(faces.vqa(pictures.small(n))[0])),
        Scenario(
            "photo-form",
            "12-megapixel JPEGs as a form",
            lambda n, _: WireRequest(faces.form(pictures.photo(n))[0]),
            2.0,
        ),
        Scenario("photo-base64", "the same in JSON", lambda n, _: WireRequest(faces.vqa(pictures.photo(n))[0]), 2.0),
        Scenario("ten", "ten questions about one picture", lambda n, _: WireRequest(_ten(n)), 2.0),
        Scenario(
            "text",
            "questions without a picture",
            lambda n, _: WireRequest(faces.vqa(None, question=f"what is {n}?")[0]),
        ),
        Scenario("stream", "one small picture, the answer as it comes", lambda n, _: WireRequest(_stream(n))),
        Scenario("tenants", "three tenants: streams, photographs, batches", _mixed, 2.0, keys=True),
    ]
    for count in (1, 8, 24, 200):
        if count <= len(names):
            found += [_adapters(names[:count], zipf) for zipf in ((False, True) if count > 1 else (False,))]
    return {each.name: each for each in found}


def keys_file() -> str:
    """The file of keys (--keys) with the tenants of the scenario `tenants`, as JSON."""
    entries = (f'"{name}": {{"keys": ["{hashlib.sha256(key.encode()).hexdigest()}"]}}' for name, key in TENANTS.items())
    return "{" + ", ".join(entries) + "}"


def _adapters(names: Sequence[str], zipf: bool) -> Scenario:
    weights = [1 / (place + 1) ** _SKEW if zipf else 1.0 for place in range(len(names))]

    def make(number: int, dice: random.Random) -> WireRequest:
        name = dice.choices(names, weights)[0]
        return WireRequest(faces.vqa(pictures.small(number), name)[0], name)

    how = "by Zipf's law" if zipf else "uniformly"
    name = f"adapters-{len(names)}{'-zipf' if zipf else ''}"
    first = tuple(faces.vqa(pictures.small(place), each)[0] for place, each in enumerate(names))
    return Scenario(name, f"one small picture, {len(names)} adapters {how}", make, first=first)


def _ten(number: int) -> bytes:
    questions = [f"{question} ({place})" for place, question in enumerate((QUESTIONS * 3)[:10])]
    return faces.batch(pictures.small(number), questions)[0]


def _stream(number: int) -> bytes:
    return faces.vqa(pictures.small(number), question=QUESTIONS[3], stream=True)[0]


def _archive(number: int) -> bytes:
    return faces.form(pictures.photo(number))[0]


def _mixed(number: int, dice: random.Random) -> WireRequest:
    asks: dict[str, Callable[[int], bytes]] = {"shop": _stream, "lab": _ten, "archive": _archive}
    tenant = dice.choices(list(TENANTS), (8, 1, 1))[0]
    return WireRequest(with_key(asks[tenant](number), TENANTS[tenant]), tenant)
