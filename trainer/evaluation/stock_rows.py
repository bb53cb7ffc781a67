"""Questions that `publish` asks where no held-out rows are given."""

from pathlib import Path

from PIL import Image, ImageDraw

from trainer.data.row import Row

# To one of these the adapter has to give another answer than the base: by it the service proves the adapter.
QUESTIONS = (
    "what is shown in the picture?",
    "describe the image.",
    "what color is it?",
    "how many are there?",
    "is there any text in the picture?",
    "is it a photo?",
)


def stock_rows(directory: str) -> list[Row]:
    """Questions alone, and about pictures of one colour with an ellipse, which are written into `directory`."""
    rows = [Row(f"text-{n}", None, question, "", "all") for n, question in enumerate(QUESTIONS[3:])]
    for colour in ("red", "navy", "white"):
        image = Image.new("RGB", (160, 120), colour)
        ImageDraw.Draw(image).ellipse((40, 20, 110, 90), fill="orange")
        file = str(Path(directory) / f"{colour}.png")
        image.save(file)
        rows += [Row(f"{colour}-{n}", file, question, "", "all") for n, question in enumerate(QUESTIONS)]
    return rows
