"""Held-out answers of base and adapter -> the probes of a manifest, by which the service proves the adapter."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.adapters.manifest import Probe
from service.images import Preparation, picture
from service.members import TEXT
from service.prompt import Prompt
from trainer.data.files import read
from trainer.data.row import Row
from trainer.errors import NoGain
from trainer.evaluation.generate import Prediction
from trainer.evaluation.score import right

PROBES = 4
# By how much a token's logit has to exceed the second best's for the service to choose it too. Logits below 32 lie at
# most 0.125 apart in bfloat16, and each side, with kernels of its own, is off by a step or more: at 32 layers of random
# weights vLLM chose another token where the lead was over 0.25 (docs/measured/size.md).
SURE = 1.0


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A row whose answers differ within their first `tokens`; `margin` is the smallest lead among these, in either."""

    row: Row
    tokens: int
    base: str
    adapter: str
    margin: float
    won: bool


def choose_probes(
    rows: Sequence[Row],
    base: Sequence[Prediction],
    adapter: Sequence[Prediction],
    prompt: Prompt,
    preparation: Preparation,
    member: str = "",
) -> tuple[Probe, ...]:
    """Rows that the adapter answers otherwise than its base, those both are surest of, each about another image.

    A probe is the beginning of an answer, up to the first token whose logit leads by less than `SURE`: from there on
    the service, which rounds otherwise, may choose another token. Where no row's answers differ in that part, probes go
    up to the first token that differs, and else are whole answers. Rows that only the adapter has right come first, but
    for the text `member` of a mixture, which is meant to stay near its base.

    Raises:
        NoGain: there is no such row.
    """
    asked = list(zip(rows, base, adapter, strict=True))
    for length in (_sure, _shortest, _whole):
        found = [each for row, before, after in asked if (each := _candidate(row, before, after, prompt, length))]
        if found:
            won = [each for each in found if each.won and member != TEXT]
            return _probes(won or found, preparation)
    who = f"the adapter's {member} member" if member else "the adapter"
    more = "; a higher --score-rows asks it more of them" if member else ""
    raise NoGain(f"{who} answers {len(rows)} questions as its base does: nothing to publish{more}")


def _sure(_base: Prediction, adapter: Prediction) -> int:
    """How many tokens there are before the first whose lead is under `SURE`."""
    return next((number for number, lead in enumerate(adapter.leads) if lead < SURE), len(adapter.token_ids))


def _shortest(base: Prediction, adapter: Prediction) -> int:
    """Tokens up to the first that differs from the base's: of all beginnings that differ the one with most lead."""
    pairs = enumerate(zip(base.token_ids, adapter.token_ids, strict=False), start=1)
    return next((number for number, (before, after) in pairs if before != after), len(adapter.token_ids))


def _whole(_base: Prediction, adapter: Prediction) -> int:
    """All tokens: what differs first may be a part of a letter, or white space, which is no probe."""
    return len(adapter.token_ids)


def _candidate(
    row: Row, base: Prediction, adapter: Prediction, prompt: Prompt, length: Callable[[Prediction, Prediction], int]
) -> _Candidate | None:
    """The row as a probe of so many tokens, or None: they do not differ from the base's."""
    if row.history:  # a probe has no field for it
        return None
    tokens = length(base, adapter)
    said = prompt.decode(adapter.token_ids[:tokens])
    while said.endswith("\ufffd"):  # cut within a letter of several bytes: the engine's own text ends otherwise
        tokens -= 1
        said = prompt.decode(adapter.token_ids[:tokens])
    instead = prompt.decode(base.token_ids[:tokens])
    # A beginning of white space alone (SentencePiece often begins an answer with it) would prove little.
    if said == instead or (not said.strip() and tokens < len(adapter.token_ids)):
        return None
    margin = min(*adapter.leads[:tokens], *base.leads[:tokens])
    won = right(row, adapter.text) and not right(row, base.text)
    return _Candidate(row, tokens, instead, said, margin, won)


def _probes(found: list[_Candidate], preparation: Preparation) -> tuple[Probe, ...]:
    """Of `found` those with the largest margins, each about another image."""
    order = sorted(found, key=lambda each: each.margin, reverse=True)
    best = {each.row.image or each.row.id: each for each in reversed(order)}
    return tuple(
        Probe(
            question=each.row.question,
            image_png=_png(each.row.image, preparation),
            base_answer=each.base,
            adapter_answer=each.adapter,
            tokens=each.tokens,
        )
        for each in sorted(best.values(), key=order.index)[:PROBES]
    )


def _png(image: str | None, preparation: Preparation) -> str | None:
    if image is None:
        return None
    buffer = io.BytesIO()
    picture(read(image), preparation).image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
