"""COCO's form, of captions: pictures with their file names, and captions of them by the picture's number."""

from collections.abc import Iterator
from typing import Any

from trainer.data.forms import json_values
from trainer.data.forms.json_values import Member
from trainer.data.forms.recognised import Recognised, Record
from trainer.data.forms.text import Text
from trainer.errors import DataError

IMAGES, ANNOTATIONS = "images", "annotations"


def matches(members: list[Member]) -> bool:
    """Whether one of the members of a JSON object is COCO's list of pictures or of annotations."""
    return any(
        isinstance(member.value, dict)
        and (
            (member.key == IMAGES and {"id", "file_name"} <= set(member.value))
            or (member.key == ANNOTATIONS and "image_id" in member.value and {"caption", "bbox"} & set(member.value))
        )
        for member in members
    )


def recognise(found: Text) -> Recognised:
    """Captions as questions that ask for a description.

    Raises:
        DataError: the annotations are boxes, of which another command makes questions.
    """
    first = next(json_values.under(found, ANNOTATIONS), None)
    if first is None or not isinstance(first.value, dict) or "caption" not in first.value:
        raise DataError(
            [
                f"{found.url}: holds COCO's boxes and no questions: `python -m trainer data annotations --form coco"
                f" --source {found.url} …` makes questions of them"
            ]
        )
    evidence = "COCO's pictures and captions"
    return Recognised("coco-captions", evidence, lambda: _records(found), mended=found.mended)


def _records(found: Text) -> Iterator[Record]:
    """Two passes: the file names of pictures may stand behind the captions."""
    pictures = (each.value for each in json_values.under(found, IMAGES) if isinstance(each.value, dict))
    names = {picture.get("id"): picture.get("file_name") for picture in pictures}
    for number, member in enumerate(json_values.under(found, ANNOTATIONS), start=1):
        value = member.value if isinstance(member.value, dict) else {}
        record: dict[str, Any] = {"id": value.get("id"), "caption": value.get("caption")}
        record["image"] = names.get(value.get("image_id"), f"of the number {value.get('image_id')}, which has no name")
        yield Record(number, f"{member.line} (record {number})", record)
