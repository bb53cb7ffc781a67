"""Answers in process, as many rows at once as memory holds; of several processes each answers its share."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm
from transformers import DynamicCache, LogitsProcessor

from service.adapters.manifest import PROBE_TOKENS
from service.memory import available
from service.prompt import Prompt
from trainer.data.row import Row
from trainer.model.checkpoint import Checkpoint
from trainer.model.forest import Sight
from trainer.model.forward import embed, project, tower_states
from trainer.processes import gathered, this_process

# Tokens at once, prompts and answers, where memory would hold more.
_TOKENS = 16_384
# The share of free memory that the key-value cache may take; the forward pass takes about as much.
_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer, and its first tokens, at most as many as the service asks of a probe (PROBE_TOKENS).

    `leads` has for each of these by how much its logit exceeds the second best's; it is empty for an answer of a beam
    search, which is chosen as a whole. `confidence` is the probability of the whole answer, its end included unless it
    was cut, as the service gives it; None for an answer of a beam search.
    """

    text: str
    token_ids: tuple[int, ...]
    leads: tuple[float, ...]
    confidence: float | None


class _Leads(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    """Notes by how much each chosen token's logit leads, and its log-probability: logits would take gigabytes.

    Both are (rows,) for each step. Greedy answers choose the likeliest token, so that its log-probability is the
    largest.
    """

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []
        self.log_probs: list[torch.Tensor] = []

    def __call__(self, _ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logits = scores.float()
        best = logits.topk(2).values
        self.steps.append(best[:, 0] - best[:, 1])
        self.log_probs.append(best[:, 0] - logits.logsumexp(dim=-1))
        return scores


class KeyCache(DynamicCache):  # type: ignore[misc]
    """Keys and values in the type that attention multiplies in, which rounds them to it anyway.

    transformers keeps both as rotated keys are, in float32: twice as many bytes for the same answers.
    """

    def __init__(self, config: Any, dtype: torch.dtype) -> None:
        super().__init__(config=config)
        self._dtype = dtype

    def update(self, keys: torch.Tensor, values: torch.Tensor, *place: Any, **named: Any) -> Any:
        """Add keys and values of new tokens, in the cache's own dtype; returns all so far."""
        return super().update(keys.to(self._dtype), values.to(self._dtype), *place, **named)


def predict(
    checkpoint: Checkpoint,
    llava: Any,
    rows: Sequence[Row],
    sight: Sight | None,
    label: str,
    max_tokens: int = PROBE_TOKENS,
    beams: int = 1,
) -> list[Prediction]:
    """Answer every row greedily, by default as far as the service asks probes; `label` names the progress bar.

    With several `beams` each answer is the best that a search of that width finds, as service/beams.py does it.

    `llava` is the checkpoint's model, or that model behind an adapter. All processes have to call this, with the same
    rows, and each gets all answers.
    """
    prompts = [_expanded(checkpoint, row) for row in rows]
    state = this_process()
    order = sorted(range(len(rows)), key=lambda index: len(prompts[index]))[state.process_index :: state.num_processes]
    found: list[tuple[int, Prediction]] = []
    with (
        torch.inference_mode(),
        checkpoint.precision(),
        tqdm(total=len(order), desc=label, unit="question") as progress,
    ):
        for batch in _batches(order, prompts, max_tokens, _room(checkpoint, llava) // beams):
            images = [image for image in (rows[index].image for index in batch) if image]
            asked = [prompts[index] for index in batch]
            answers = _generate(checkpoint, llava, asked, images, sight, max_tokens, beams)
            found += zip(batch, answers, strict=True)
            progress.update(len(batch))
    return [answer for _, answer in sorted(gathered(found), key=lambda pair: pair[0])]


def longest_answer(prompt: Prompt, rows: Sequence[Row]) -> int:
    """Tokens that every right answer of `rows` fits in, its end too; no fewer than the service asks probes for."""
    answers = {row.answer for row in rows if row.answer}
    return max([PROBE_TOKENS, *(len(prompt.encode_answer("?", answer, 0)) for answer in answers)])


def _batches(order: list[int], prompts: list[list[int]], max_tokens: int, room: int) -> Iterator[list[int]]:
    """Rows in order, as many at once as come to `room` tokens with the longest prompt among them; at least one."""
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * (len(prompts[index]) + max_tokens) > room:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _room(checkpoint: Checkpoint, llava: Any) -> int:
    free = torch.cuda.mem_get_info()[0] if llava.device.type == "cuda" else available()
    return room(llava.config.text_config, free, checkpoint.dtype)


def room(config: Any, free: int, dtype: torch.dtype) -> int:
    """Tokens whose keys and values of type `dtype` go into so many free bytes, for a language model's configuration."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * size * dtype.itemsize
    return min(_TOKENS, int(free * _SHARE / token))


def _generate(
    checkpoint: Checkpoint,
    llava: Any,
    prompts: list[list[int]],
    images: list[str],
    sight: Sight | None,
    max_tokens: int,
    beams: int,
) -> list[Prediction]:
    prompt = checkpoint.prompt
    length = max(map(len, prompts))
    ids = torch.tensor([[prompt.pad_token_id] * (length - len(tokens)) + tokens for tokens in prompts])
    mask = torch.tensor([[0] * (length - len(tokens)) + [1] * len(tokens) for tokens in prompts])
    leads = _Leads()
    output = llava.generate(
        inputs_embeds=embed(llava, ids.to(llava.device), _features(llava, images, sight)),
        attention_mask=mask.to(llava.device),
        max_new_tokens=max_tokens,
        do_sample=False,
        num_beams=beams,
        past_key_values=KeyCache(llava.config.text_config, checkpoint.dtype),
        logits_processor=[leads] if beams == 1 else [],
        pad_token_id=prompt.pad_token_id,
        eos_token_id=prompt.end_token_id,
    )
    if not leads.steps:  # a beam search
        return [_prediction(prompt, said, [], None) for said in output.tolist()]
    margins, log_probs = (torch.stack(steps, dim=1).tolist() for steps in (leads.steps, leads.log_probs))
    return [_prediction(prompt, *each) for each in zip(output.tolist(), margins, log_probs, strict=True)]


def _features(llava: Any, images: list[str], sight: Sight | None) -> torch.Tensor | None:
    if not images or sight is None:
        return None
    shown = sight(images)
    return project(llava, tower_states(llava, shown["pixels"]) if "pixels" in shown else shown["states"])


def _prediction(prompt: Prompt, token_ids: list[int], leads: list[float], log_probs: list[float] | None) -> Prediction:
    end = token_ids.index(prompt.end_token_id) + 1 if prompt.end_token_id in token_ids else len(token_ids)
    asked = min(end, PROBE_TOKENS)
    confidence = None if log_probs is None else min(1.0, math.exp(math.fsum(log_probs[:end])))
    return Prediction(prompt.decode(token_ids[:end]), tuple(token_ids[:asked]), tuple(leads[:asked]), confidence)


def _expanded(checkpoint: Checkpoint, row: Row) -> list[int]:
    prompt, out = checkpoint.prompt, list[int]()
    for token in prompt.encode(row.question, row.pictures, row.messages):
        out += [token] * (checkpoint.image_shape[0] if token == prompt.image_token_id else 1)
    return out
