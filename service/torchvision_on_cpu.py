"""Lets PyPI's torchvision import beside a CPU build of torch; knows nothing else of the service.

PyPI carries only the CUDA build of torchvision. Its Python half registers shape functions for `torchvision::nms` and
`qnms`, which exist only where its compiled half loads, so `import torchvision` fails beside a CPU torch. vLLM imports
torchvision with every LLaVA but calls neither operator: declaring their schemas is enough. PyTorch calls this through
its `torch.backends` entry points at the end of `import torch`.
"""

from importlib.metadata import PackageNotFoundError, version


def define_missing_operators() -> None:
    """Declare torchvision's two compiled operators where a CPU torch will not get them from torchvision."""
    import torch

    try:
        torchvision_version = version("torchvision")
    except PackageNotFoundError:
        return
    # Only PyTorch's own index serves builds with a local label (0.28.0+cpu): those match their torch and define both.
    if torch.version.cuda is not None or "+" in torchvision_version:
        return
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
