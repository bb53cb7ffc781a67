"""An adapter by its Hugging Face id: its own files alone, fetched once into the hub's cache."""

import logging
import re
from fnmatch import fnmatch
from pathlib import Path

import httpx
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from service.adapters.modules import CONFIG
from service.errors import AdapterRefused
from trainer.adapter.foreign.tensors import WHOLE

log = logging.getLogger(__name__)

_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What of a repository is read: the adapter itself, and weights beside it, for which it is refused.
_FILES = (CONFIG, "adapter_model*.safetensors", "adapter_model*.bin", *WHOLE)


def is_id(name: str) -> bool:
    """Whether `name` can be an id of the hub, ORG/NAME, and is nothing that lies here."""
    return bool(_ID.fullmatch(name)) and not Path(name).exists() and not Path(name).parent.exists()


def fetch(name: str, most: int) -> Path:
    """The folder with the files of the adapter `name`, which may come to `most` bytes.

    Where the hub cannot be reached, what was fetched before is taken.

    Raises:
        AdapterRefused: there is none, it may not be read, it holds no adapter, or too much.
    """
    try:
        info = HfApi().model_info(name, files_metadata=True)
    except (HFValidationError, HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        return _fetched_before(name, error)
    files = {
        file.rfilename: file.size or 0
        for file in info.siblings or ()
        if any(fnmatch(file.rfilename, pattern) for pattern in _FILES) and "/" not in file.rfilename
    }
    if CONFIG not in files:
        raise AdapterRefused("files", f"{name} on the hub holds no {CONFIG}: it is no adapter of PEFT's form")
    if (size := sum(files.values())) > most:
        raise AdapterRefused(
            "files", f"{name} on the hub has {size / 1e6:,.0f} MB, an adapter {most / 1e6:,.0f} at most"
        )
    log.info("fetching %s from the hub: %.0f MB, revision %s", name, size / 1e6, info.sha)
    try:
        return Path(snapshot_download(name, allow_patterns=sorted(files)))
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise AdapterRefused("files", f"{name} could not be fetched from the hub: {error}: try again") from error


def _fetched_before(name: str, reason: Exception) -> Path:
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(_FILES), local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        raise AdapterRefused(
            "files", f"{name} is nothing that lies here, and the hub does not give it: {reason}"
        ) from reason
    log.warning("the hub does not answer (%s): taking %s as it was fetched before", type(reason).__name__, name)
    return folder
