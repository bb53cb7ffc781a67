"""A trained adapter -> an immutable version in the store: PEFT's two files, manifest, card."""

import base64
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path

from transformers import LlavaForConditionalGeneration

from service.adapters import manifest as manifests
from service.adapters.manifest import Manifest, Probe
from service.adapters.modules import CONFIG, WEIGHTS
from service.adapters.store import Store
from service.images import Preparation, picture
from service.types import Adapter
from trainer.data.digests import IMAGES
from trainer.data.files import read
from trainer.data.rows import Row
from trainer.errors import NoGain
from trainer.predict import Prediction
from trainer.score import right

PROBES = 4


def choose_probes(
    rows: Sequence[Row], base: Sequence[Prediction], adapter: Sequence[Prediction], preparation: Preparation
) -> tuple[Probe, ...]:
    """Rows that the adapter answers otherwise than its base, those it is surest of, each about another image.

    Those that only the adapter has right are taken where there are any; free text seldom is right to the letter.

    Raises:
        NoGain: there is no such row.
    """
    differ = [
        i
        for i, row in enumerate(rows)
        if not row.history and adapter[i].probe != base[i].probe and not _cut_letter(adapter[i])
    ]
    won = [i for i in differ if right(rows[i], adapter[i].text) and not right(rows[i], base[i].text)]
    if not differ:
        raise NoGain(f"the adapter answers {len(rows)} questions as its base does: nothing to publish")
    return _probes(won or differ, rows, base, adapter, preparation)


def _cut_letter(said: Prediction) -> bool:
    """Whether a probe ends within a letter of several bytes: the engine's own text would end otherwise."""
    return said.probe.endswith("\ufffd") and said.probe != said.text


def _probes(
    found: list[int],
    rows: Sequence[Row],
    base: Sequence[Prediction],
    adapter: Sequence[Prediction],
    preparation: Preparation,
) -> tuple[Probe, ...]:
    """Of the rows `found`, those that both models are surest of, each about another image."""
    order = sorted(found, key=lambda i: min(adapter[i].margin, base[i].margin), reverse=True)
    first_of_image = {rows[i].image or rows[i].id: i for i in reversed(order)}
    return tuple(
        Probe(
            question=rows[i].question,
            image_png=_png(rows[i].image, preparation),
            base_answer=base[i].probe,
            adapter_answer=adapter[i].probe,
        )
        for i in sorted(first_of_image.values(), key=order.index)[:PROBES]
    )


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


def _png(image: str | None, preparation: Preparation) -> str | None:
    if image is None:
        return None
    buffer = io.BytesIO()
    picture(read(image), preparation).image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
