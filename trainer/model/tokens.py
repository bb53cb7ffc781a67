"""Rows -> token ids, as the service would write them, in three bytes a token; knows nothing of images but their names.

Every row about an image begins alike, up to and with its image: `prefix`, kept once. What follows is the row's own.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.prompt import Prompt
from trainer.data.row import Row
from trainer.errors import DataError, OptionError

# Marks of a token: it is an answer's, so it is to be predicted; behind it the model has to end.
SAID, END = 1, 2
# How a row is written: as the service asks it, or LLaVA's plain form, the image and its caption and nothing else.
Form = Literal["asked", "plain"]


@dataclass(frozen=True)
class Tokens:
    """The tokens of rows without their prefix: row i has those from `starts[i]` to `starts[i + 1]`.

    Shapes: `ids` and `marks` (tokens,), `starts` (rows + 1,), `image` (rows,), the place in `images` of a row's image
    or -1. `prefix` has one placeholder, `image_id`, which stands for `image_tokens` tokens; `end_id` ends an answer and
    `pad_id` fills up.
    """

    ids: NDArray[Any]
    marks: NDArray[np.uint8]
    starts: NDArray[np.int64]
    image: NDArray[np.int32]
    images: tuple[str, ...]
    prefix: tuple[int, ...]
    image_tokens: int
    image_id: int
    end_id: int
    pad_id: int

    def __len__(self) -> int:
        return len(self.image)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row behind its prefix."""
        return np.diff(self.starts)

    @property
    def head(self) -> NDArray[np.int64]:
        """The prefix with a placeholder for each image token."""
        ids = [id_ for id_ in self.prefix for _ in range(self.image_tokens if id_ == self.image_id else 1)]
        return np.array(ids, dtype=np.int64)


def encode(
    rows: Iterable[Row],
    prompt: Prompt,
    image_tokens: int,
    context: int | None = None,
    form: Form = "asked",
    last: bool = False,
) -> Tokens:
    """Write every row in tokens; with `last` no answer of a history is to be said.

    Raises:
        DataError: rows of more tokens than `context`, all of them; the service would refuse them too. In the plain
            form, rows without an image.
        OptionError: a template that writes something else than the image first.
    """
    ids, marks, starts, image = array("I"), bytearray(), array("q", [0]), array("i")
    places: dict[str, int] = {}
    prefix: tuple[int, ...] | None = None
    faults: list[str] = []
    for row in tqdm(rows, desc="tokens", unit="row", mininterval=2):
        head, found, said = _spoken(row, prompt, last) if form == "asked" else _captioned(row, prompt, faults)
        if row.image is not None and (prefix := prefix or head) != head:
            raise OptionError(f"--model: its chat template writes text before the image: {row.place or row.id}")
        length = len(head) + len(found) + (image_tokens - 1 if row.image else 0) + 1  # the end token comes behind
        if context is not None and length > context:
            faults.append(f"{row.place or row.id}: comes to {length} tokens, the base holds {context}: shorten it")
        ids.extend(found)
        marks.extend(said)
        starts.append(len(ids))
        image.append(-1 if row.image is None else places.setdefault(row.image, len(places)))
    if faults:
        raise DataError(faults)
    small = np.uint16 if max(ids, default=0) < 2**16 else np.uint32
    return Tokens(
        ids=np.frombuffer(ids, dtype=np.uint32).astype(small),
        marks=np.frombuffer(marks, dtype=np.uint8),
        starts=np.frombuffer(starts, dtype=np.int64),
        image=np.frombuffer(image, dtype=np.int32),
        images=tuple(places),
        prefix=prefix or (),
        image_tokens=image_tokens,
        image_id=prompt.image_token_id,
        end_id=prompt.end_token_id,
        pad_id=prompt.pad_token_id,
    )


def _spoken(row: Row, prompt: Prompt, last: bool) -> tuple[tuple[int, ...], tuple[int, ...], bytearray]:
    """A conversation's prefix, the tokens behind it, and their marks."""
    ids, answers = prompt.encode_conversation(row.exchanges, int(row.image is not None))
    cut = ids.index(prompt.image_token_id) + 1 if row.image is not None else 0
    marks = bytearray(len(ids))
    for answer in answers[-1:] if last else answers:
        for place in answer:
            marks[place] = SAID
        marks[answer[-1]] |= END
    return ids[:cut], ids[cut:], marks[cut:]


def _captioned(row: Row, prompt: Prompt, faults: list[str]) -> tuple[tuple[int, ...], tuple[int, ...], bytearray]:
    """As `_spoken`: every token behind the image is said, and the line's end is the end."""
    if row.image is None:
        faults.append(f"{row.place or row.id}: has no image, and aligning learns from images with captions alone")
    ids = prompt.encode_plain(row.answer)
    cut = ids.index(prompt.image_token_id) + 1
    return ids[:cut], ids[cut:], bytearray([SAID] * (len(ids) - cut))
