"""What a sweep found, as one HTML page and as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from trainer.data.pages.pictures import Picture, drawn
from trainer.data.pages.template import render
from trainer.data.row import Row
from trainer.evaluation.settings import Standing


def write_sweep(folder: Path, found: Sequence[Standing], rows: Sequence[Row]) -> None:
    """Write `sweep.html` and `sweep.json` into `folder`.

    Raises:
        OSError: they cannot be written.
    """
    (folder / "sweep.html").write_text(page(found, rows))
    lines = [
        {
            "setting": each.setting.values,
            "right": [each.right.mean, each.right.low, each.right.high],
            "seeds": each.seeds,
            "behind": each.behind and [each.behind.mean, each.behind.low, each.behind.high],
            "verdict": each.verdict,
            "held_out_loss": each.setting.losses,
            "seconds": each.setting.seconds,
        }
        for each in found
    ]
    (folder / "sweep.json").write_text(json.dumps({"rows": len(rows), "settings": lines}, indent=1) + "\n")


def page(found: Sequence[Standing], rows: Sequence[Row]) -> str:
    """The whole page as HTML text."""
    images = len({row.image or row.id for row in rows})
    return render("sweep.html", found=found, rows=len(rows), images=images, picture=_picture(found))


def _picture(found: Sequence[Standing]) -> Picture:
    """A point and an interval for each setting, best on top, the seeds beside it."""
    figure = Figure(figsize=(7, 0.9 + 0.34 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, each in enumerate(reversed(found)):
        colour = "#9c2a12" if each.real else "#2457a6"
        ends = [[100 * (each.right.mean - each.right.low)], [100 * (each.right.high - each.right.mean)]]
        axes.errorbar(100 * each.right.mean, place, xerr=ends, fmt="o", color=colour, capsize=3)
        axes.plot([100 * seed for seed in each.seeds], [place] * len(each.seeds), "|", color=colour, markersize=9)
    axes.set_yticks(range(len(found)), [str(each.setting) for each in reversed(found)])
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.set_xlabel("right answers, %")
    axes.grid(axis="x", alpha=0.3)
    return drawn(figure, f"Right answers by setting: {found[0].setting} is best with {100 * found[0].right.mean:.1f}%")
