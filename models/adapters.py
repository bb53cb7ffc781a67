"""`python -m models.adapters`: the repository's two adapters, made by `python -m trainer train` from public data."""

import subprocess
import sys

DATA, STORE = "build/data", "models/adapters"
# Small models want higher rates than the default. A digit has few rows, so more passes, dropout, and the INT4 values.
RECIPES = {
    "shapes": "--epochs 5 --learning-rate 2e-3 --batch-size 16 --rank 16",
    "digits": "--model models/tiny-llava-int4 --epochs 15 --learning-rate 3e-3 --batch-size 16 --rank 16 --dropout 0.1",
}


def main(names: list[str]) -> None:
    """Train the adapters named, or both; their held-out scores are of a tenth of the training images."""
    for name in names or RECIPES:
        command = [sys.executable, "-m", "trainer", "train", "--name", name, "--store", STORE, "--modality", "image"]
        command += ["--data", f"{DATA}/{name}/train.jsonl", "--images", f"{DATA}/{name}/images", *RECIPES[name].split()]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
