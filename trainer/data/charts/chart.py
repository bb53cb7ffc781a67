"""What a chart shows, without pixels: its kind, names and numbers, which are drawn at random."""

from dataclasses import dataclass

import numpy as np

from trainer.config.data import ChartOptions, Kind

# Short enough to stand side by side in 128 pixels.
THEMES: dict[str, tuple[str, ...]] = {
    "sales": ("tea", "nuts", "rice", "milk", "figs", "corn", "oats", "salt"),
    "votes": ("Ann", "Ben", "Cy", "Dee", "Eva", "Fay", "Gus", "Hal"),
    "staff": ("IT", "HR", "Law", "Ops", "Lab", "Ads", "Web", "Art"),
    "rain": ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug"),
    "energy": ("sun", "wind", "gas", "oil", "coal", "tide", "wood", "heat"),
}
SERIES = (("2024", "2025"), ("east", "west"), ("men", "women"))
STAGES = ("seen", "click", "cart", "pay", "rate", "call", "back", "fan")


@dataclass(frozen=True, slots=True)
class Chart:
    """`values` has a row per series and a column per name, or of a scatter chart, which has no names, per point.

    `numbered`: each value is written beside its part.
    """

    kind: Kind
    title: str
    names: tuple[str, ...]
    series: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    numbered: bool


def invent(kind: Kind, options: ChartOptions, rng: np.random.Generator) -> Chart:
    """A chart of that kind, drawn by `rng`.

    Values that are not written out are multiples of ten, where the axis has its ticks, so that they can be read off;
    those of a scatter chart are any, since no question asks for them.
    """
    title = "visits" if kind == "funnel" else str(rng.choice(sorted(THEMES)))
    most = min(options.parts, 4) if kind == "grouped" and options.size < 192 else options.parts
    parts = int(rng.integers(3, most + 1))
    names = _names(kind, title, parts, rng)
    grouped = kind == "grouped"
    series = SERIES[rng.integers(len(SERIES))] if grouped else (title,)
    numbered = kind in ("pie", "funnel") or (kind == "bar" and bool(rng.integers(2)))
    values = tuple(_values(kind, parts, options.values, numbered, rng) for _ in series)
    return Chart(kind, title, names, series, values, numbered)


def _names(kind: Kind, title: str, parts: int, rng: np.random.Generator) -> tuple[str, ...]:
    if kind == "scatter":
        return ()
    if kind == "funnel":
        return STAGES[:parts]
    theme = THEMES["rain"] if kind == "line" else THEMES[title]
    start = int(rng.integers(len(theme) - parts + 1))
    chosen = range(start, start + parts) if kind == "line" else rng.permutation(len(theme))[:parts]
    return tuple(theme[index] for index in chosen)


def _values(kind: Kind, parts: int, spread: str, numbered: bool, rng: np.random.Generator) -> tuple[int, ...]:
    if kind == "scatter":
        return _cloud(rng)
    if spread == "any":
        spread = str(rng.choice(("even", "bell", "skewed")))
    draws = {"even": rng.uniform(0, 1, parts), "bell": rng.normal(0.5, 0.18, parts), "skewed": rng.beta(1, 3, parts)}
    shares = draws[spread].clip(0, 1)
    if kind == "pie":  # percents, each slice wide enough for its number
        return _percents(shares, rng)
    step = 1 if numbered else 10
    values = (np.round((10 + 89 * shares) / step) * step).clip(10, 90)
    if kind == "funnel":
        values = np.sort(values)[::-1]
    return tuple(int(value) for value in values)


def _percents(shares: np.ndarray, rng: np.random.Generator) -> tuple[int, ...]:
    """Whole percents of at least 6 that make 100."""
    room = 100 - 6 * len(shares)
    cuts = np.floor(room * shares / max(shares.sum(), 1e-9)).astype(int)
    cuts[rng.integers(len(cuts))] += room - cuts.sum()
    return tuple(int(cut) + 6 for cut in cuts)


def _cloud(rng: np.random.Generator) -> tuple[int, ...]:
    """Heights, left to right, of few enough points to count; they rise or fall clearly."""
    count = int(rng.integers(4, 10))
    slope = rng.choice((-1, 1)) * rng.uniform(40, 70)
    heights = 50 + slope * (np.linspace(0, 1, count) - 0.5) + rng.normal(0, 6, count)
    return tuple(int(height) for height in heights.round().clip(5, 95))
