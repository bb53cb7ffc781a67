"""The id of an answer, which says the day it was asked: by it alone what was kept of it is found."""

import re
from datetime import UTC, date, datetime
from typing import Literal

_DATED = re.compile(r"(?:vqa|chatcmpl)-(\d{8})-")


def answer_id(kind: Literal["vqa", "chatcmpl"], request_id: str) -> str:
    """An answer's id, as vqa-20260501-<request id>; the day is UTC's."""
    return f"{kind}-{datetime.now(UTC):%Y%m%d}-{request_id}"


def day_of(id_: str) -> str | None:
    """The day that an answer's id says, as 2026-05-01; None where it says none."""
    if not (found := _DATED.match(id_)):
        return None
    try:
        return date.fromisoformat(found[1]).isoformat()
    except ValueError:
        return None
