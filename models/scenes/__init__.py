"""Draws the scenes that the embedded model learns from, and says what is on them; knows no models or questions.

A scene is a handful of shapes, one printed word, or a small chart, on a plain, graded or noisy ground. Everything is
drawn here from a seed: no picture comes from elsewhere.
"""

from numpy.random import Generator

from models.scenes.charts import chart_scene
from models.scenes.shapes import shapes_scene
from models.scenes.text import text_scene
from models.scenes.things import CHARTS, COLOURS, GLYPHS, SHAPES, Scene, Thing

__all__ = ["CHARTS", "COLOURS", "GLYPHS", "SHAPES", "Scene", "Thing", "draw"]


def draw(rng: Generator) -> Scene:
    """Draw one scene."""
    kind = rng.choice(["shapes", "single", "text", "digit", "chart"], p=[0.28, 0.3, 0.06, 0.26, 0.1])
    if kind == "text" or kind == "digit":
        return text_scene(rng, one=kind == "digit")
    if kind == "chart":
        return chart_scene(rng)
    return shapes_scene(rng, 1 if kind == "single" else int(rng.integers(2, 6)))
