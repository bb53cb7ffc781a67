"""`python -m models.examples`: the six example pictures of the page at `/`, and `examples.json`, which describes them.

Two are drawn shapes and two are drawn charts, of seeds that neither the base nor an adapter was trained on; two are
handwritten digits of the held-out fifth of scikit-learn's set (models/datasets.py). They are written to
service/page/files/examples, as PNG of a kilobyte or so each.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from models.scenes.charts import chart_scene
from models.scenes.shapes import shapes_scene

FOLDER = Path(__file__).parent.parent / "service/page/files/examples"
# The first part of the seeds of what is drawn here; training scenes have the first part 0 (models/stages.py).
SEED = 77


@dataclass(frozen=True)
class Example:
    """One picture: how it is drawn, what it shows in words, and which questions the page proposes.

    `number` is the last part of the seed of a drawn picture, or the digit's index in scikit-learn's set. `adapter` is
    the adapter of the repository that was made for it, or None for the base model.
    """

    name: str
    kind: str
    number: int
    alt: str
    adapter: str | None
    questions: tuple[str, ...]


EXAMPLES = (
    Example("triangle", "shape", 7, "A yellow triangle", "shapes",
            ("what color is the shape?", "what shape is in the image?", "is there a circle?")),
    Example("square", "shape", 4, "A green square", "shapes", ("what color is the shape?", "is there a triangle?")),
    Example("seven", "digit", 1496, "A handwritten seven", "digits", ("which digit is this?",)),
    Example("two", "digit", 1270, "A handwritten two", "digits", ("which digit is this?",)),
    Example("bars", "chart", 1, "A bar chart of three bars: blue is the lowest, cyan the tallest", None,
            ("what kind of chart is this?", "how many bars are there?", "what color is the tallest bar?")),
    Example("pie", "chart", 10, "A pie chart of six slices", None,
            ("what kind of chart is this?", "is the cyan slice larger than the pink slice?")),
)  # fmt: skip


def picture(example: Example) -> Image.Image:
    """The example's RGB picture, 64 to 128 pixels a side."""
    rng = np.random.default_rng((SEED, example.number))
    if example.kind == "shape":
        return shapes_scene(rng, 1).image.convert("RGB")
    if example.kind == "chart":
        return chart_scene(rng).image.convert("RGB")
    grey = Image.fromarray((load_digits().images[example.number] * 255 / 16).round().astype(np.uint8))
    return grey.resize((64, 64), Image.Resampling.BICUBIC).convert("RGB")


def main() -> None:
    """Write the pictures and examples.json."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for example in EXAMPLES:
        picture(example).save(FOLDER / f"{example.name}.png", optimize=True)
    said = [
        {"file": f"{each.name}.png", "alt": each.alt, "adapter": each.adapter, "questions": each.questions}
        for each in EXAMPLES
    ]
    (FOLDER / "examples.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
