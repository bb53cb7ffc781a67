"""Writes the adapter card, README.md of a version, from its manifest."""

from service.adapters.manifest import Manifest

_MEMBERS = (
    "`image/` answers questions that show a picture, also earlier in a conversation, `text/` all others; the gateway"
    " chooses. Each is a plain LoRA for PEFT. LaVIN (Luo et al., NeurIPS 2023), whose method this is, also trains"
    " adapters in the vision tower, and the projector: the engine cannot serve those on LLaVA-1.5, and here they are"
    " the base's."
)


def card(manifest: Manifest, command: str) -> str:
    """The adapter card: what it is for, how well it does on held-out rows, how it was made."""
    lines = [
        f"# {manifest.name}",
        "",
        f"A {_kind(manifest)} (rank {manifest.rank}, alpha {manifest.alpha:g}) for {manifest.base_id}.",
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
    if manifest.format == 2:
        lines += ["", _MEMBERS]
    if manifest.begun_from:
        lines += ["", f"Its training went on from {manifest.begun_from}."]
    lines += ["", f"Made {manifest.created} by {manifest.trainer}:", "", f"    {command}", ""]
    return "\n".join(lines)


def _kind(manifest: Manifest) -> str:
    return "LoRA adapter" if manifest.format == 1 else "mixture of modalities, compiled to two LoRA adapters"
