"""Greedy answers in process, batched over rows whose image features are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from service.adapters.proof import PROBE_TOKENS
from service.prompt import Prompt
from trainer.data.rows import Row
from trainer.features import Features
from trainer.model import embed

BATCH = 128


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model answers, and `probe`, what it has answered as far as the service asks probes.

    `margin` is the smallest lead within the probe of a chosen token over the second best, as a log-probability.
    """

    text: str
    probe: str
    margin: float


def predict(
    llava: Any, prompt: Prompt, rows: list[Row], features: Features, label: str, max_tokens: int = PROBE_TOKENS
) -> list[Prediction]:
    """Answer every row greedily, by default as far as the service asks probes; `label` names the progress bar."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].question))
    found: dict[int, Prediction] = {}
    with torch.inference_mode():
        for start in tqdm(range(0, len(order), BATCH), desc=label, unit="batch"):
            batch = order[start : start + BATCH]
            answers = _generate(llava, prompt, [rows[index] for index in batch], features, max_tokens)
            found.update(zip(batch, answers, strict=True))
    return [found[index] for index in range(len(rows))]


def longest_answer(prompt: Prompt, rows: Sequence[Row]) -> int:
    """Tokens that every right answer of `rows` fits in, its end too; no fewer than the service asks probes for."""
    answers = {row.answer for row in rows if row.answer}
    return max([PROBE_TOKENS, *(len(prompt.encode_answer("?", answer, 0)) for answer in answers)])


def _generate(llava: Any, prompt: Prompt, rows: list[Row], features: Features, max_tokens: int) -> list[Prediction]:
    sequences = [_expanded(prompt, row, features.tokens) for row in rows]
    length = max(map(len, sequences))
    ids = torch.tensor([[prompt.pad_token_id] * (length - len(tokens)) + tokens for tokens in sequences])
    mask = torch.tensor([[0] * (length - len(tokens)) + [1] * len(tokens) for tokens in sequences])
    images = [features[row.image] for row in rows if row.image]
    output = llava.generate(
        inputs_embeds=embed(llava, ids.to(llava.device), torch.cat(images) if images else torch.empty(0)),
        attention_mask=mask.to(llava.device),
        max_new_tokens=max_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=prompt.pad_token_id,
        eos_token_id=prompt.end_token_id,
    )
    best = torch.stack(output.logits, dim=1).log_softmax(-1).topk(2).values
    leads = best[..., 0] - best[..., 1]
    return [_prediction(prompt, ids, lead) for ids, lead in zip(output.sequences.tolist(), leads, strict=True)]


def _prediction(prompt: Prompt, token_ids: list[int], leads: torch.Tensor) -> Prediction:
    end = token_ids.index(prompt.end_token_id) + 1 if prompt.end_token_id in token_ids else len(token_ids)
    asked = min(end, PROBE_TOKENS)
    return Prediction(prompt.decode(token_ids[:end]), prompt.decode(token_ids[:asked]), float(leads[:asked].min()))


def _expanded(prompt: Prompt, row: Row, image_tokens: int) -> list[int]:
    out: list[int] = []
    for token in prompt.encode(row.question, int(row.image is not None)):
        out += [token] * (image_tokens if token == prompt.image_token_id else 1)
    return out
