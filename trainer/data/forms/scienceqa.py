"""ScienceQA's records (Lu et al., NeurIPS 2022), and the groups by which its results are reported.

Groups are those of its authors' evaluation and of LaVIN's table (Luo et al., NeurIPS 2023): by subject, by context (a
text, an image, neither; a question may have both), and by grade.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from trainer.data.forms.choices import LETTERS, chosen

SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
# In the order in which LaVIN's table has them.
GROUPS = (*SUBJECTS.values(), "TXT", "IMG", "NO", "G1-6", "G7-12")


def convert(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Hint, question and lettered choices become the question, the right choice's text the answer."""
    choices, right = chosen(record.get("choices"), record.get("answer"))
    lettered = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    parts = [record.get("hint"), record.get("question"), lettered]
    found = {
        "id": record.get("id"),
        "category": record.get("subject"),
        "counted_in": list(_groups(record)),
        "question": "\n".join(part.strip() for part in parts if isinstance(part, str) and part.strip()),
        "answer": right,
    }
    image = record.get("image")
    if isinstance(image, str) and image:
        found["image"] = f"{record.get('split')}/{record.get('id')}/{image}"
    elif image is not None:
        found["image"] = image
    return found


def _groups(record: Mapping[str, Any]) -> Iterator[str]:
    if (subject := record.get("subject")) in SUBJECTS:
        yield SUBJECTS[subject]
    if record.get("hint"):
        yield "TXT"
    if record.get("image"):
        yield "IMG"
    if not record.get("hint") and not record.get("image"):
        yield "NO"
    grade = str(record.get("grade")).removeprefix("grade")
    if grade.isdecimal() and 1 <= int(grade) <= 12:
        yield "G1-6" if int(grade) <= 6 else "G7-12"
