"""W4A16 in compressed-tensors' form: what config.json says of it, and one linear's weights packed.

Only the language model's linears are packed; tower, projector and head stay as they are, as every LLaVA recipe has it.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

# vLLM matches these; the expanded list of names that compressed-tensors would write it does not.
IGNORE = ["re:.*vision_tower.*", "re:.*multi_modal_projector.*", "re:.*lm_head"]


def packing_config(group_size: int) -> dict[str, Any]:
    """`quantization_config` of a checkpoint whose linears share a scale in groups of `group_size` inputs."""
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group_size}
    group = {
        "format": "pack-quantized",
        "input_activations": None,
        "output_activations": None,
        "targets": ["Linear"],
        "weights": {**weights, "actorder": None, "dynamic": False, "observer": "memoryless_minmax"},
    }
    return {
        "config_groups": {"group_0": group},
        "format": "pack-quantized",
        "ignore": IGNORE,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "version": _version(),
    }


def _version() -> str:
    try:
        return version("compressed-tensors")
    except PackageNotFoundError:  # only the form is written then
        return "0.19.0"
