"""A chart -> PNG bytes, in several styles; the only file of charts/ that uses matplotlib."""

import io

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from trainer.data.charts.chart import Chart

DPI = 100
PALETTES = ("tab10", "Set1", "Set2", "Dark2", "Accent")
BACKGROUNDS = ("white", "#f4f4f4", "#fff8e8", "#eaf2f8")
# Size of the font in points, by the chart's side in pixels. At 100 DPI a point (1/72 inch) is 1.39 pixels: on a chart
# of 128 pixels letters have 6.5 points, which are 9 pixels and stay legible.
POINTS = 6.5 / 128


def draw(chart: Chart, size: int, rng: np.random.Generator) -> bytes:
    """Draw at `size` pixels square; style, palette and proportions come from `rng`."""
    font = POINTS * size
    layout = ConstrainedLayoutEngine(w_pad=0.025, h_pad=0.025)
    figure = Figure(figsize=(size / DPI, size / DPI), dpi=DPI, layout=layout)
    figure.set_facecolor(str(rng.choice(BACKGROUNDS)))
    axes = figure.add_subplot()
    axes.set_facecolor(figure.get_facecolor())
    if rng.integers(2) and chart.kind != "grouped":  # whose legend stands there
        axes.set_title(chart.title, fontsize=font, pad=font / 4)
    palette = colormaps[str(rng.choice(PALETTES))]
    colours: list[object] = [palette(int(index)) for index in rng.permutation(8)]
    {"pie": _pie, "funnel": _funnel, "bar": _bar, "grouped": _grouped, "line": _line, "scatter": _scatter}[chart.kind](
        axes, chart, colours, font, rng
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})  # the same bytes whatever the version's name
    return buffer.getvalue()


def _pie(axes: Axes, chart: Chart, colours: list[object], font: float, rng: np.random.Generator) -> None:
    hole = {"width": 0.6} if rng.integers(2) else {}
    axes.pie(
        chart.values[0], labels=chart.names, colors=colours, autopct="%d", startangle=float(rng.integers(360)),
        pctdistance=0.7, labeldistance=1.08, textprops={"fontsize": font}, radius=1.15,
        wedgeprops={"edgecolor": "white", "linewidth": font / 9, **hole},
    )  # fmt: skip


def _funnel(axes: Axes, chart: Chart, colours: list[object], font: float, rng: np.random.Generator) -> None:
    values = np.array(chart.values[0])
    one = bool(rng.integers(2))
    axes.barh(chart.names, values, left=-values / 2, color=colours[0] if one else colours[: len(values)], height=0.85)
    for height, value in enumerate(values):
        axes.text(0, height, str(value), ha="center", va="center", fontsize=font)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.tick_params(axis="y", labelsize=font, length=0, pad=1)
    axes.spines[:].set_visible(False)


def _bar(axes: Axes, chart: Chart, colours: list[object], font: float, rng: np.random.Generator) -> None:
    colour = colours[0] if rng.integers(2) else colours[: len(chart.names)]
    bars = axes.bar(chart.names, chart.values[0], color=colour, width=float(rng.uniform(0.55, 0.85)))
    if chart.numbered:
        axes.bar_label(bars, fontsize=font, padding=1)
    _scale(axes, font, ticks=not chart.numbered)


def _grouped(axes: Axes, chart: Chart, colours: list[object], font: float, rng: np.random.Generator) -> None:
    places, width = np.arange(len(chart.names)), float(rng.uniform(0.34, 0.42))
    for number, (name, values) in enumerate(zip(chart.series, chart.values, strict=True)):
        axes.bar(places + width * (number - 0.5), values, width, label=name, color=colours[number])
    axes.set_xticks(places, chart.names)
    axes.legend(
        fontsize=font, ncols=2, loc="lower center", bbox_to_anchor=(0.45, 0.98), frameon=False, handlelength=0.8,
        columnspacing=0.8, handletextpad=0.3, borderpad=0,
    )  # fmt: skip
    _scale(axes, font)


def _line(axes: Axes, chart: Chart, colours: list[object], font: float, rng: np.random.Generator) -> None:
    marker = str(rng.choice(("o", "s", "^", "D")))
    axes.plot(chart.names, chart.values[0], color=colours[0], marker=marker, markersize=font / 2, linewidth=font / 6)
    axes.margins(x=0.08)
    _scale(axes, font)


def _scatter(axes: Axes, chart: Chart, colours: list[object], font: float, rng: np.random.Generator) -> None:
    heights = chart.values[0]
    axes.scatter(
        range(len(heights)), heights, color=colours[0], s=float(font**2 / 2), marker=str(rng.choice(("o", "s")))
    )
    axes.set_xticks([])
    axes.margins(x=0.08)
    _scale(axes, font)


def _scale(axes: Axes, font: float, ticks: bool = True) -> None:
    """0 to 100; a line at every ten, a number at every twenty."""
    axes.set_ylim(0, 103)
    axes.set_yticks(range(0, 101, 20) if ticks else [])
    if ticks:
        axes.set_yticks(range(10, 100, 20), minor=True)
        axes.grid(axis="y", which="both", linewidth=font / 16, color="#bbbbbb")
        axes.set_axisbelow(True)
    axes.tick_params(labelsize=font, length=0, pad=1, which="both")
    axes.spines[["top", "right"]].set_visible(False)
