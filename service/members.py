"""Where the weights of an adapter's version lie: in its directory, or of a mixture in one folder for each modality.

A mixture of modalities is one version: published, routed, proven and rolled back as one. Only engines tell its members
apart: `image` answers questions that show a picture, also earlier in a conversation, `text` all others. Each is a plain
LoRA by itself, in PEFT's two files.
"""

from pathlib import Path

IMAGE, TEXT = "image", "text"
MEMBERS = (IMAGE, TEXT)
# PEFT's two files.
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What a mixture's own adapter_config.json says it is: no PEFT type, so that no tool takes the version for one LoRA.
MIXTURE = "MIXTURE_OF_MODALITIES"


def members(version: Path) -> dict[str, Path]:
    """The folders of PEFT's files in a version's directory, by member; of a plain adapter that directory, by ""."""
    if (version / IMAGE / CONFIG).is_file():
        return {member: version / member for member in MEMBERS}
    return {"": version}


def member_of(pictures: int) -> str:
    """The member that answers a question with so many pictures, those of its history among them."""
    return IMAGE if pictures else TEXT
