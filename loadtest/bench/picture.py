"""The chart of a run: for each case, our throughput over that of each server compared, and the goal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw(lines: Sequence[dict[str, Any]], file: Path) -> None:
    """Throughput of ours over a peer's, larger is better, on a logarithmic axis: median, spread, the goal's mark."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    rows = [(line, goal) for line in lines for goal in line["goals"] if goal["figure"] == "rate"]
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(8, 0.28 * len(rows) + 0.8), layout="constrained")
    for place, (_, goal) in enumerate(rows):
        low, high = goal["spread"]
        axes.plot([low, high], [place, place], color="#2a6f97", linewidth=5, alpha=0.3, solid_capstyle="butt")
        axes.plot(goal["median"], place, "o", color="#2a6f97", markersize=5)
        if goal.get("at_least"):
            axes.plot(goal["at_least"], place, "|", color="#bc4749", markersize=11, markeredgewidth=2)
        axes.annotate(f"{goal['median']:.2f}", (high, place), (5, -3), textcoords="offset points", fontsize=7)
    axes.axvline(1, color="black", linewidth=0.6)
    axes.set_xscale("log", base=2)
    ticks = [tick for tick in (0.25, 0.5, 1, 2, 4, 8, 16, 32) if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(
        range(len(rows)), [f"{line['case']}: {goal['of']} over {goal['over']}" for line, goal in rows], fontsize=7
    )
    axes.invert_yaxis()
    axes.set_xlabel("throughput, ratio within a round: median and spread over rounds; red: the goal", fontsize=8)
    figure.savefig(file, dpi=150)
