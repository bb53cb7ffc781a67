"""Rows -> token ids, as the service would write them; knows nothing of images but their names.

Every row about an image begins alike, up to and with its image: `prefix`, kept once. What follows is the row's own, in
three bytes a token, or five where ids reach 65,536.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.prompt import Prompt
from trainer.data.row import Row
from trainer.errors import DataError, OptionError

# Marks of a token: it is an answer's, so it is to be predicted; behind it the model has to end.
ANSWER, END = 1, 2
# Marks of a pair's tokens: of its chosen or its rejected answer, which both follow the question.
CHOSEN, REJECTED = 4, 8
# How a row is written: as the service asks it; LLaVA's plain form, the image and its caption and nothing else; or a
# pair, a question with both its answers behind it.
Form = Literal["asked", "plain", "paired"]


@dataclass(frozen=True)
class Tokens:
    """The tokens of rows without their prefix: row i has those from `starts[i]` to `starts[i + 1]`.

    Shapes: `ids` and `marks` (tokens,), `starts` (rows + 1,), `image` (rows,), the place in `images` of a row's image
    or -1. `prefix` has one placeholder, `image_id`, which stands for `image_tokens` tokens; `end_id` ends an answer and
    `pad_id` fills up. `paired` rows are a question, its chosen answer and its rejected answer, in this order.
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
    paired: bool = False

    def __len__(self) -> int:
        return len(self.image)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each row behind the prefix it shares, (rows,)."""
        return np.diff(self.starts)

    @cached_property
    def answer_starts(self) -> NDArray[np.int64]:
        """(rows + 1,): how many tokens of the rows before each are to be predicted, and at the end of all rows."""
        predicted = ((self.marks & ANSWER) > 0).astype(np.int64) + ((self.marks & END) > 0)
        found: NDArray[np.int64] = np.concatenate([np.zeros(1, np.int64), np.cumsum(predicted)])[self.starts]
        return found

    @property
    def answer_owners(self) -> NDArray[np.int64]:
        """The answer of each token that is to be predicted: 2 x its pair's row, and 1 more for the rejected answer.

        They are in the order of rows, and within a row as `forest.collate` has them: the answers' own tokens, then the
        ends.
        """
        said, ends = np.flatnonzero(self.marks & ANSWER), np.flatnonzero(self.marks & END)
        places = np.concatenate([said, ends])
        row = np.searchsorted(self.starts, places, side="right") - 1
        behind = np.repeat([0, 1], [len(said), len(ends)])
        owners = 2 * row + (self.marks[places] & REJECTED > 0)
        found: NDArray[np.int64] = owners[np.lexsort((places, behind, row))]
        return found

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
    """Write every row in tokens.

    With `last` only the last answer of a conversation is to be predicted, and a pair is taken in any form, of which its
    chosen answer counts in forms other than "paired".

    Raises:
        DataError: rows of more tokens than `context`, all of them; the service would refuse them too. In the plain
            form, rows without an image. Rows that are pairs where none are wanted, or are none where they are.
        OptionError: a template that writes something else than the image first.
    """
    ids, marks, starts, image = array("I"), bytearray(), array("q", [0]), array("i")
    places: dict[str, int] = {}
    prefix: tuple[int, ...] | None = None
    faults: list[str] = []
    for row in tqdm(rows, desc="tokens", unit="row", mininterval=2):
        if (fault := _unpaired(row, form)) and not last:
            faults.append(f"{row.place or row.id}: {fault}")
            continue
        head, found, said = _written(row, prompt, form, last, faults)
        if row.image is not None and (prefix := prefix or head) != head:
            raise OptionError(f"--model: its chat template writes text before the image: {row.place or row.id}")
        own = _longest(said) if form == "paired" else len(found)
        length = len(head) + own + (image_tokens - 1 if row.image else 0) + 1  # the end token comes behind
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
        paired=form == "paired",
    )


def _unpaired(row: Row, form: Form) -> str | None:
    """Why a row is not of the kind that this form learns from: pairs of answers or single ones."""
    if form == "paired" and row.rejected is None:
        return "has no rejected answer, and preference is learnt from pairs: {question, chosen, rejected}"
    if form != "paired" and row.rejected is not None:
        return (
            "is a pair of answers, which --method dpo learns from; to learn the chosen one alone say --ignore rejected"
        )
    return None


def _longest(marks: bytearray) -> int:
    """Tokens of a pair's question and its longer answer."""
    chosen, rejected = (sum(mark & side > 0 for mark in marks) for side in (CHOSEN, REJECTED))
    return len(marks) - min(chosen, rejected)


def _written(
    row: Row, prompt: Prompt, form: Form, last: bool, faults: list[str]
) -> tuple[tuple[int, ...], tuple[int, ...], bytearray]:
    if form == "plain":
        return _captioned(row, prompt, faults)
    return _paired(row, prompt) if form == "paired" else _spoken(row, prompt, last)


def _spoken(row: Row, prompt: Prompt, last: bool) -> tuple[tuple[int, ...], tuple[int, ...], bytearray]:
    """A conversation's prefix, the tokens behind it, and their marks."""
    ids, answers = prompt.encode_conversation(row.exchanges, int(row.image is not None))
    cut = ids.index(prompt.image_token_id) + 1 if row.image is not None else 0
    marks = bytearray(len(ids))
    for answer in answers[-1:] if last else answers:
        for place in answer:
            marks[place] = ANSWER
        marks[answer[-1]] |= END
    return ids[:cut], ids[cut:], marks[cut:]


def _paired(row: Row, prompt: Prompt) -> tuple[tuple[int, ...], tuple[int, ...], bytearray]:
    """As `_spoken`: the question once, then the tokens of the chosen answer and those of the rejected one."""
    head, chosen, said = _spoken(row, prompt, True)
    _, rejected, other = _spoken(replace(row, answer=row.rejected or ""), prompt, True)
    # As far as both are written alike; an answer's own tokens are its side's, also where both answers begin alike.
    shared = next(place for place, (one, two) in enumerate(zip(said, other, strict=False)) if one or two)
    shared = next((n for n in range(shared) if chosen[n] != rejected[n]), shared)
    sides = [mark | CHOSEN for mark in said[shared:]] + [mark | REJECTED for mark in other[shared:]]
    return head, chosen + rejected[shared:], said[:shared] + bytearray(sides)


def _captioned(row: Row, prompt: Prompt, faults: list[str]) -> tuple[tuple[int, ...], tuple[int, ...], bytearray]:
    """As `_spoken`: every token behind the image is to be predicted, the line feed at the end too."""
    if row.image is None:
        faults.append(f"{row.place or row.id}: has no image, and aligning learns from images with captions alone")
    ids = prompt.encode_plain(row.answer)
    cut = ids.index(prompt.image_token_id) + 1
    return ids[:cut], ids[cut:], bytearray([ANSWER] * (len(ids) - cut))
