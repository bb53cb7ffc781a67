"""Identifies a base checkpoint by tensors that quantisation leaves as they are; reads files only, runs no model."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

# Tensors that W4A16 quantisation leaves as they are, so that both precisions of a base have them in common, and that
# bases of other training have otherwise.
_KEPT = ("embed_tokens.weight", "multi_modal_projector.linear_1.weight", "multi_modal_projector.linear_2.weight")


# In config.json, the digest of an adapter that was added into the weights, which the kept tensors do not show.
MERGED = "merged_adapter_sha256"


@dataclass(frozen=True, slots=True)
class Base:
    """A base checkpoint: its id, the digest of its identity, and the precision of its weights.

    The id is that on the Hugging Face hub where the checkpoint lies in the hub's cache, or was saved with it; else the
    name of its directory.
    """

    id: str
    digest: str
    precision: str

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> "Base":
        """Identify the llava-hf checkpoint in a directory.

        Raises:
            FileNotFoundError: there is no `config.json`, or no safetensors file with the tensors that identify a base.
        """
        file = checkpoint / "config.json"
        if not file.is_file():
            raise FileNotFoundError(f"{checkpoint} is not a checkpoint: it has no config.json")
        config = json.loads(file.read_text())
        name = _hub_id(checkpoint) or config.get("_name_or_path") or checkpoint.name
        return cls(name, _digest(checkpoint, config.get(MERGED)), _precision(config))


def _hub_id(checkpoint: Path) -> str | None:
    """The id of a model of the Hugging Face hub by where its files lie: hub/models--ORG--NAME/snapshots/COMMIT."""
    snapshots, model = checkpoint.parent, checkpoint.parent.parent.name
    if snapshots.name != "snapshots" or not model.startswith("models--"):
        return None
    return "/".join(model.split("--")[1:])


def _precision(config: dict[str, object]) -> str:
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict):
        groups = quantization.get("config_groups", {})
        bits = next((group["weights"]["num_bits"] for group in groups.values()), quantization.get("bits"))
        return f"int{bits}" if bits else str(quantization.get("quant_method"))
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def _digest(checkpoint: Path, merged: object) -> str:
    """SHA-256 over the kept tensors in bfloat16, whichever dtype and names they are stored under; and over `merged`."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                suffix = next((kept for kept in _KEPT if key.endswith(kept)), None)
                if suffix:
                    found[suffix] = tensors.get_tensor(key)
    if set(found) != set(_KEPT):
        raise FileNotFoundError(f"{checkpoint} is not a LLaVA checkpoint: no {', '.join(set(_KEPT) - set(found))}")
    digest = hashlib.sha256()
    for name in _KEPT:
        digest.update(found[name].to(torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())
    digest.update(str(merged or "").encode())
    return digest.hexdigest()
