"""Hides PyPI's torchaudio and torchcodec beside a CPU build of torch; knows nothing else of the service.

vLLM's CPU build requires both, and PyPI carries only their CUDA builds, which fail to load beside a CPU torch: the
import of transformers, which tries to import them, ends in an OSError. A LLaVA reads neither sound nor video.
Where they are not installed (uv leaves them out by its overrides in pyproject.toml) this does nothing; pip has no
overrides. PyTorch calls this through its `torch.backends` entry points at the end of `import torch`.
"""

import sys
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("torchaudio", "torchcodec")


def hide() -> None:
    """Make `import torchaudio` and `import torchcodec` end in ModuleNotFoundError, as if they were not installed."""
    import torch

    if sys.platform != "linux" or torch.version.cuda is not None:
        return
    for package in _PACKAGES:
        try:
            installed = version(package)
        except PackageNotFoundError:
            continue
        # Only PyTorch's own index serves builds with a local label (2.13.0+cpu): those match their torch.
        if "+" not in installed:
            # None there is what the import system takes for "not to be found" (importlib.util.find_spec does too).
            sys.modules.setdefault(package, None)  # type: ignore[arg-type]
