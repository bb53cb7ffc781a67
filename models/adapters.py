"""`python -m models.adapters`: the repository's two adapters, made by `python -m trainer train` from public data."""

import subprocess
import sys

DATA, STORE = "build/data", "models/adapters"
# Small models want higher rates than the trainer's default; a digit has few rows, so more passes.
RECIPES = {
    "shapes": "--epochs 5 --learning-rate 2e-3 --batch-size 16 --rank 16",
    "digits": "--epochs 12 --learning-rate 3e-3 --batch-size 32 --rank 16",
}


def main(names: list[str]) -> None:
    """Train the adapters named, or both; their held-out scores are of a tenth of the training images."""
    for name in names or RECIPES:
        command = [sys.executable, "-m", "trainer", "train", "--name", name, "--store", STORE, "--modality", "image"]
        command += ["--data", f"{DATA}/{name}/train.jsonl", "--images", f"{DATA}/{name}/images", *RECIPES[name].split()]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
