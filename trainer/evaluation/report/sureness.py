"""Confidence as a page shows it: how sure against how often right, and how many are wrong of those answered."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer.data.pages.pictures import Picture, drawn
from trainer.evaluation.confidence import Sureness

_COLOURS = {"adapter": "#2457a6", "calibrated": "#2d7d46", "base": "#b0632a"}
# Points of a curve that are drawn; a page of 100,000 rows stays small.
_POINTS = 500


def pictured(found: dict[str, Sureness | None]) -> Picture | None:
    """Reliability on the left, risk by coverage on the right, a line for each that is known; None where none is."""
    known = {who: each for who, each in found.items() if each is not None}
    if not known:
        return None
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _reliability(left, known)
    _risks(right, known)
    words = "; ".join(
        f"{who}: {100 * each.ece:.1f} points between confidence and share right, {100 * each.curve[-1].risk:.1f}% wrong"
        f" of all and {100 * each.aurc:.1f}% on average over coverages"
        for who, each in known.items()
    )
    return drawn(figure, words)


def _reliability(axes: Axes, known: dict[str, Sureness]) -> None:
    axes.plot([0, 100], [0, 100], color="#999999", linestyle="--", linewidth=1, label="as sure as right")
    for who, each in known.items():
        sure, right = [100 * bin_.confidence for bin_ in each.bins], [100 * bin_.right for bin_ in each.bins]
        axes.plot(sure, right, marker="o", markersize=4, color=_COLOURS[who], label=who)
    axes.set_xlabel("confidence, %")
    axes.set_ylabel("right answers, %")
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 101)
    axes.grid(alpha=0.3)
    axes.legend()


def _risks(axes: Axes, known: dict[str, Sureness]) -> None:
    for who, each in known.items():
        points = each.curve[:: max(1, len(each.curve) // _POINTS)]
        points = points if points[-1] == each.curve[-1] else (*points, each.curve[-1])
        axes.plot(
            [100 * point.coverage for point in points],
            [100 * point.risk for point in points],
            color=_COLOURS[who],
            marker="." if len(points) < 30 else None,
            label=who,
        )
    axes.set_xlabel("questions answered, surest first, %")
    axes.set_ylabel("wrong among them, %")
    axes.set_xlim(0, 101)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
