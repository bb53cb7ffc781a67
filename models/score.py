"""`python -m models.score`: what the embedded base answers about scenes it never saw, by kind of question."""

import json
import sys
from pathlib import Path

from models.stages import HELD_OUT, numbered_scene
from trainer.data.row import Row
from trainer.evaluation.generate import predict
from trainer.evaluation.score import right
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States

SEED, SCENES = 0, 1500


def main(model: Path, work: Path) -> None:
    """Print right answers out of asked, a line for each kind of question."""
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(SCENES):
        scene, asked = numbered_scene(SEED, HELD_OUT + number)
        image = work / f"{number}.png"
        scene.image.save(image)
        rows += [Row(f"{number}-{n}", str(image), a.question, a.answer, a.category) for n, a in enumerate(asked)]
    loaded = Checkpoint.load(model)
    answers = predict(loaded, loaded.model, rows, States.of(loaded, rows), "base answers", max_tokens=32)
    hits = [right(row, answer.text) for row, answer in zip(rows, answers, strict=True)]
    for category in sorted({row.category for row in rows}):
        counted = [hit for row, hit in zip(rows, hits, strict=True) if row.category == category]
        print(json.dumps({"category": category, "asked": len(counted), "right": sum(counted)}))
    print(json.dumps({"category": "all", "asked": len(hits), "right": sum(hits)}))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "models/tiny-llava"), Path("build/model/held-out"))
