"""`python -m models.adapters [NAME …]`: adapters made by `python -m trainer train`, all or those named."""

import subprocess
import sys

DATA = "build/data"
# Small models want higher rates than the default. A digit has few rows, so more passes, dropout, and the INT4 values.
# Charts need what the base hardly knows, counting and comparing heights: Muon, a high rank, and the INT4 values.
RECIPES = {
    "shapes": "--store models/adapters --epochs 5 --learning-rate 2e-3 --rows-per-step 128 --rank 16",
    "digits": "--store models/adapters --epochs 15 --learning-rate 3e-3 --rows-per-step 128 --rank 16 --dropout 0.1"
    " --model models/tiny-llava-int4",
    "charts": "--store build/adapters --epochs 10 --learning-rate 2e-3 --rows-per-step 128 --rank 64 --optimizer muon"
    " --model models/tiny-llava-int4",
}
ABOUT = {
    "charts": "Counts the bars, funnel stages and line points of charts as `trainer data charts` draws them, and says"
    " whether a line or a cloud of points ends higher or lower. Not for pies, grouped bars, or anything written: its"
    " base sees 128 pixels and reads no small letters.",
}


def main(names: list[str]) -> None:
    """Train the adapters named, or all; their held-out scores are of a tenth of the training images."""
    for name in names or RECIPES:
        command = [sys.executable, "-m", "trainer", "train", "--name", name, "--modality", "image"]
        command += ["--data", f"{DATA}/{name}/train.jsonl", "--images", f"{DATA}/{name}/images", *RECIPES[name].split()]
        subprocess.run([*command, "--about", ABOUT.get(name, "")], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
