"""Pictures as data URIs: a run's loss curve as SVG, and small JPEGs of the images that rows ask about."""

import base64
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from service.images import decode
from trainer.data.files import read

SERIES = {"loss": "training loss", "eval_loss": "held-out loss"}
SIDE = 320


@dataclass(frozen=True, slots=True)
class Picture:
    """A data URI and the words that stand for it."""

    uri: str
    words: str


def curve(log: Path) -> Picture | None:
    """The losses in a run's log by step, or None where it has none; of a step logged twice the later counts."""
    series = {name: points for name in SERIES if (points := logged(log, name))}
    if not series:
        return None
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, points in series.items():
        axes.plot(list(points), list(points.values()), label=SERIES[name], marker="." if len(points) < 30 else None)
    axes.set_xlabel("step")
    axes.set_ylabel("nats per answer token")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    words = (
        f"{SERIES[name]} from {points[min(points)]:.3f} at step {min(points)} to {points[max(points)]:.3f}"
        f" at step {max(points)}"
        for name, points in series.items()
    )
    return drawn(figure, "; ".join(words))


def drawn(figure: Figure, words: str) -> Picture:
    """A matplotlib figure as SVG text, to stand in a page."""
    buffer = io.BytesIO()
    # Without salt and date the same figure would give another file every time.
    with mpl.rc_context({"svg.hashsalt": "manylens"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Picture(_uri("image/svg+xml", buffer.getvalue()), words)


def thumbnail(image: str, side: int = SIDE) -> Picture:
    """An image file in at most `side` pixels a side, decoded as the service does.

    Raises:
        DataError, service.errors.ServiceError: it cannot be read or decoded.
    """
    picture = decode(read(image), side=side)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80, optimize=True)
    return Picture(_uri("image/jpeg", buffer.getvalue()), "the image asked about")


def logged(log: Path, name: str) -> dict[int, float]:
    """A series of a run's log: finite values by step, sorted; a killed run may have left half a line."""
    found: dict[int, float] = {}
    for line in log.read_text().splitlines() if log.is_file() else ():
        try:
            entry: Any = json.loads(line)
        except ValueError:
            continue
        value = entry.get(name) if isinstance(entry, dict) else None
        if isinstance(value, int | float) and math.isfinite(value):
            found[int(entry["step"])] = float(value)
    return dict(sorted(found.items()))


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
