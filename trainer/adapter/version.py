"""PEFT's two files, a manifest and a card -> an immutable version in the store."""

import json
import shlex
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path

from transformers import LlavaForConditionalGeneration

from service.adapters import manifest as manifests
from service.adapters.aliases import CANARY
from service.adapters.directory import files_of
from service.adapters.manifest import Manifest
from service.adapters.store import Store
from service.calibration import FILE as CALIBRATION
from service.calibration import Calibration
from service.embedded import embedded
from service.members import CONFIG, MEMBERS, MIXTURE, WEIGHTS, members
from service.types import Adapter
from trainer.adapter.card import card
from trainer.data.digests import IMAGES


def write_version(
    store: Path,
    manifest: Manifest,
    directory: Path,
    command: str,
    images: str = "",
    canary: float | None = None,
    calibration: Calibration | None = None,
) -> Adapter:
    """Write PEFT's files in `directory` and what is known of them into the store as the name's stable version.

    The files are two, or of a mixture two for each member in a folder of its own. With `canary` the version is the
    name's canary with that share of the questions; see Store.publish. `images` is the `image_list` of what it was
    trained on, or nothing; `calibration` of its confidences, where known.
    """
    files: dict[str, bytes] = {}
    for member, folder in members(directory).items():
        place = f"{member}/" if member else ""
        files |= {f"{place}{CONFIG}": plain_config(folder), f"{place}{WEIGHTS}": (folder / WEIGHTS).read_bytes()}
    if manifest.format == 2:  # what marks a version as whole; its members' own are below
        files[CONFIG] = json.dumps({"peft_type": MIXTURE, "members": list(MEMBERS)}, indent=2).encode() + b"\n"
    if images:
        files[IMAGES] = images.encode()
    files[manifests.FILE] = manifest.model_dump_json(indent=2).encode() + b"\n"
    files["README.md"] = card(manifest, command).encode()
    if calibration is not None:
        files[CALIBRATION] = _written(calibration)
    return Store(store).publish(manifest.name, files, canary)


def how_to_serve(store: Path, model: str) -> str:
    """The command that serves the versions in `store`, which were made for the base `model`."""
    words = ["python", "-m", "service", "--adapters", str(store)]
    if (
        Path(model).resolve() != Path(embedded("tiny-llava")).resolve()
    ):  # whose INT4 is served where no other base is named
        words += ["--model", model]
    return f"a service over this store takes it over by itself; to start one: {shlex.join(words)}"


def add_calibration(store: Path, adapter: Adapter, calibration: Calibration, alias: str) -> Adapter:
    """Publish a version's files again with a calibration beside them, in place of one that was there.

    The new version takes the place of the old one as `alias`, stable or canary; a canary keeps its share.
    """
    files = {name: file.read_bytes() for name, file in files_of(adapter.path).items()}
    held = Store(store)
    share = held.catalog().shelves[adapter.name].aliases.named[CANARY].weight if alias == CANARY else None
    return held.publish(adapter.name, files | {CALIBRATION: _written(calibration)}, share)


def _written(calibration: Calibration) -> bytes:
    return calibration.model_dump_json(indent=1).encode() + b"\n"


def plain_config(directory: Path) -> bytes:
    """PEFT's configuration in `directory` as PEFT's AutoPeftModel can load it, wherever this trainer is not installed.

    PEFT writes the class that it found, which is a subclass of ours, under `auto_mapping`.
    """
    config = json.loads((directory / CONFIG).read_text())
    llava = LlavaForConditionalGeneration
    config["auto_mapping"] = {"base_model_class": llava.__name__, "parent_library": llava.__module__}
    return json.dumps(config, indent=2).encode() + b"\n"


def now() -> str:
    """The time now for a manifest: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def trainer_version() -> str:
    """This program's name and version, for a manifest."""
    return f"manylens {package_version('manylens')}"
