"""A trained adapter -> an immutable version in the store: PEFT's two files, manifest, card."""

import json
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path

from transformers import LlavaForConditionalGeneration

from service.adapters import manifest as manifests
from service.adapters.manifest import Manifest
from service.adapters.modules import CONFIG, WEIGHTS
from service.adapters.store import Store
from service.types import Adapter
from trainer.data.digests import IMAGES


def publish(store: Path, manifest: Manifest, directory: Path, command: str, images: str = "") -> Adapter:
    """Write PEFT's two files in `directory` and what is known of them into the store as the name's stable version.

    `images` is the `image_list` of what it was trained on, or nothing.
    """
    files = {CONFIG: plain_config(directory), WEIGHTS: (directory / WEIGHTS).read_bytes()}
    if images:
        files[IMAGES] = images.encode()
    files[manifests.FILE] = manifest.model_dump_json(indent=2).encode() + b"\n"
    files["README.md"] = card(manifest, command).encode()
    return Store(store).publish(manifest.name, files)


def plain_config(directory: Path) -> bytes:
    """PEFT's configuration in `directory` as PEFT's AutoPeftModel can load it, wherever this trainer is not installed.

    PEFT writes the class that it found, which is a subclass of ours, under `auto_mapping`.
    """
    config = json.loads((directory / CONFIG).read_text())
    llava = LlavaForConditionalGeneration
    config["auto_mapping"] = {"base_model_class": llava.__name__, "parent_library": llava.__module__}
    return json.dumps(config, indent=2).encode() + b"\n"


def now() -> str:
    """The time for a manifest, UTC to the second."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def trainer_version() -> str:
    """Who trained, for a manifest."""
    return f"manylens {package_version('manylens')}"


def card(manifest: Manifest, command: str) -> str:
    """The adapter card: what it is for, how well it does on held-out rows, how it was made."""
    lines = [
        f"# {manifest.name}",
        "",
        f"A LoRA adapter (rank {manifest.rank}, alpha {manifest.alpha:g}) for {manifest.base_id}.",
        "",
        *([manifest.about, ""] if manifest.about else []),
    ]
    if manifest.score.rows:
        lines += ["| held-out rows | count | base right | adapter right |", "|---|---:|---:|---:|"]
        for name, score in {**manifest.categories, "all": manifest.score}.items():
            base, adapter = (f"{count} ({count / score.rows:.1%})" for count in (score.base, score.adapter))
            lines.append(f"| {name} | {score.rows} | {base} | {adapter} |")
    else:
        lines.append("No held-out rows were asked of it: how well it answers is not known.")
    if gate := manifest.gate:
        lines += ["", f"Published by {gate.metric} on these rows: base {gate.base:.4g}, adapter {gate.adapter:.4g}."]
    if manifest.begun_from:
        lines += ["", f"Its training went on from {manifest.begun_from}."]
    lines += ["", f"Made {manifest.created} by {manifest.trainer}:", "", f"    {command}", ""]
    return "\n".join(lines)
