"""Writing base checkpoints that transformers and vLLM both load."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

INDEX = "model.safetensors.index.json"


def rename_tower(directory: Path) -> None:
    """Give the tower's tensors the prefix of llava-hf checkpoints, which transformers 5 drops when it saves."""
    for file in directory.glob("*.safetensors"):
        save_file({_name(key): tensor for key, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
        file.chmod(0o644)
    if (index := directory / INDEX).is_file():
        content = json.loads(index.read_text())
        content["weight_map"] = {_name(key): file for key, file in content["weight_map"].items()}
        index.write_text(json.dumps(content, indent=2) + "\n")


def _name(key: str) -> str:
    return key if "vision_model" in key else key.replace("vision_tower.", "vision_tower.vision_model.")
