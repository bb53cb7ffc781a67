"""Where a base checkpoint lies: a directory as it is, a Hugging Face id in the hub's local cache."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError


def locate(model: str) -> Path:
    """The directory of the checkpoint that `model` names; an id of the hub is downloaded once.

    Raises:
        FileNotFoundError: neither a directory nor an id that can be had; the message says which was tried.
    """
    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{model!r} is no directory here, and the model hub does not give it: {error}"
        ) from error
