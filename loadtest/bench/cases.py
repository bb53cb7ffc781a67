"""The cases: what is compared with what, and the goals. Each case asks several servers the same."""

from collections.abc import Callable
from dataclasses import dataclass

from loadtest import faces, pictures
from loadtest.faces import Unit

Make = Callable[[int], Unit]

_QUESTIONS = (
    "what color is the shape?", "what shape is in the image?", "is there a circle?", "is there a red shape?",
    "is there a blue shape?", "what is in the picture?", "is there a square?", "is there no red shape?",
    "is there a green shape?", "is there a black shape?",
)  # fmt: skip
ADAPTERS, USED = 24, 8
# The adapters in use are spread over the store.
_NAMES = [f"a{number * (ADAPTERS // USED):05}" for number in range(USED)]
FEW = [f"a{number:05}" for number in range(USED)]


@dataclass(frozen=True)
class Side:
    """One of those compared: its name in results, its server's name in peers.py, and the unit to send for a number.

    A `slow` one is measured for twice as long. `make` is None for the engine in process, which makes its own requests.
    """

    name: str
    server: str
    make: Make | None
    slow: bool = False


@dataclass(frozen=True)
class Goal:
    """A bound on the ratio of a figure of side `of` to that of side `over`; without a bound it is only printed."""

    of: str
    over: str
    figure: str = "rate"
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Case:
    """One comparison, by `clients` clients that each send a unit, wait for all its answers, and send the next."""

    name: str
    clients: int
    sides: tuple[Side, ...]
    goals: tuple[Goal, ...]


def cases(model: str) -> list[Case]:
    """All cases, in the order in which they are run; `model` is the base's name at stock vLLM."""
    return [
        *(_small(clients, model) for clients in (1, 4, 16, 64)),
        _adapters(),
        _handwritten(),
        _ten(model),
        _photos(model),
        _stores(),
    ]


def _small(clients: int, model: str) -> Case:
    sides = [
        Side("manylens", "manylens", lambda number: faces.vqa(pictures.small(number))),
        Side("stock", "stock", lambda number: faces.chat(pictures.small(number), model)),
    ]
    goals = [Goal("manylens", "stock", least=1.0), Goal("manylens", "stock", "p95_ms", most=1.0)]
    goals.append(Goal("manylens", "stock", "cpu_ms"))
    if clients >= 16:
        sides.append(Side("in process", "in process", None))
        goals.append(Goal("manylens", "in process", least=0.95))
        goals += [Goal("stock", "in process"), Goal("manylens", "in process", "cpu_ms")]
    return Case(f"small-{clients}", clients, tuple(sides), tuple(goals))


def _adapters() -> Case:
    def chat(number: int) -> Unit:
        return faces.chat(pictures.small(number), _NAMES[number % USED])

    return Case(
        "adapters", 16,
        (
            Side("manylens", "manylens", lambda number: faces.vqa(pictures.small(number), _NAMES[number % USED])),
            Side("manylens, base", "manylens", lambda number: faces.vqa(pictures.small(number))),
            Side("stock", "stock", chat, slow=True),
            Side("stock with our LoRA", "stock with our LoRA", chat),
        ),
        (
            Goal("manylens", "stock", least=8.0),
            Goal("manylens", "manylens, base", least=0.9),
            Goal("manylens", "stock with our LoRA"),
        ),
    )  # fmt: skip


def _handwritten() -> Case:
    def form(path: str) -> Make:
        return lambda number: faces.form(pictures.small(number), _NAMES[number % USED], path=path)

    return Case(
        "handwritten", 16,
        (
            Side("manylens", "manylens", form("/v1/vqa")),
            Side("handwritten", "handwritten", form("/ask")),
            Side("handwritten, mixed", "handwritten, mixed", form("/ask")),
        ),
        (Goal("manylens", "handwritten", least=5.0), Goal("manylens", "handwritten, mixed", least=5.0)),
    )  # fmt: skip


def _ten(model: str) -> Case:
    return Case(
        "ten-questions", 1,
        (
            Side("manylens", "manylens", lambda number: faces.batch(pictures.small(number), _QUESTIONS)),
            Side("stock", "stock", lambda number: faces.chats(pictures.small(number), model, _QUESTIONS)),
        ),
        (Goal("manylens", "stock", least=2.0),),
    )  # fmt: skip


def _photos(model: str) -> Case:
    return Case(
        "photos", 16,
        (
            Side("manylens, form", "manylens", lambda number: faces.form(pictures.photo(number)), slow=True),
            Side("manylens, base64", "manylens", lambda number: faces.vqa(pictures.photo(number)), slow=True),
            Side("stock", "stock", lambda number: faces.chat(pictures.photo(number), model), slow=True),
        ),
        tuple(
            Goal(f"manylens, {form}", "stock", figure, least, most)
            for form in ("form", "base64")
            for figure, least, most in (("rate", 3.0, None), ("p95_ms", None, 1 / 3))
        ),
    )  # fmt: skip


def _stores() -> Case:
    def asked(number: int) -> Unit:
        return faces.vqa(pictures.small(number), FEW[number % USED])

    return Case(
        "store-200", 16,
        (Side("200 in the store", "manylens of 200", asked), Side("8 in the store", "manylens of 8", asked)),
        (Goal("200 in the store", "8 in the store", least=1.0),),
    )  # fmt: skip
