"""The replica has LLaVA-1.5's shape and files; both tokenizers give text back and agree with the processor."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from models import replica
from service.adapters.base import Base
from service.prompt import Prompt
from service.types import ChatMessage
from tests.conftest import CHECKPOINT, ROOT
from trainer.model.checkpoint import Checkpoint

pytest.importorskip("mistral_common")
# A SentencePiece model writes spaces as "▁" and cannot tell them from it.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁"), min_size=1, max_size=40).filter(
    str.strip
)
HARD = [
    "größe",
    "日本語 🙂",
    "tab\there",
    "one\n\ntwo",
    "a  b   c",
    "<0x0A> is text",
    "1,024.5 – 7",
    "e\u0301",
    "👩‍👩‍👧",
]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the 7B's files but its weights."""
    folder = tmp_path_factory.mktemp("replica")
    replica.write_files(replica.config("7b"), folder)
    return folder


@pytest.fixture(scope="module", params=["embedded", "real"])
def tokens(request: pytest.FixtureRequest, real: Path) -> Path:
    return CHECKPOINT if request.param == "embedded" else real


@pytest.mark.parametrize("text", HARD)
def test_a_tokenizer_gives_text_back(tokens: Path, text: str) -> None:
    prompt = Prompt(tokens)
    assert prompt.decode(prompt.encode_answer("what?", text)) == text


@given(text=TEXTS)
@hypothesis_settings(max_examples=200)
def test_a_tokenizer_gives_any_text_back(prompt: Prompt, real_prompt: Prompt, text: str) -> None:
    for each in (prompt, real_prompt):
        if not any(token in text for token in each.special):
            assert each.decode(each.encode_answer("what?", text)) == text.strip()


@pytest.fixture(scope="module")
def real_prompt(real: Path) -> Prompt:
    return Prompt(real)


@pytest.mark.parametrize("text", HARD)
def test_what_the_engine_sends_piece_by_piece_is_the_text(tokens: Path, text: str) -> None:
    prompt = Prompt(tokens)
    question, answer = prompt.encode("what?"), prompt.encode_answer("what?", text)
    assert "".join(_pieces(tokens, question, answer)).strip() == text


def _pieces(checkpoint: Path, question: tuple[int, ...], answer: tuple[int, ...]) -> Iterator[str]:
    """What vLLM's detokenizer makes of an answer's tokens, one at a time, as it does for a stream."""
    pytest.importorskip("vllm")
    from transformers import AutoTokenizer
    from vllm.sampling_params import RequestOutputKind, SamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer

    sampling = SamplingParams(output_kind=RequestOutputKind.DELTA)
    request = EngineCoreRequest(
        request_id="one", prompt_token_ids=list(question), mm_features=None, sampling_params=sampling,
        pooling_params=None, arrival_time=0.0, lora_request=None, cache_salt=None, data_parallel_rank=None,
    )  # fmt: skip
    detokenizer = IncrementalDetokenizer.from_new_request(AutoTokenizer.from_pretrained(checkpoint), request)
    for token in answer[:-1]:
        detokenizer.update([token], stop_terminated=False)
        yield detokenizer.get_next_output_text(finished=False, delta=True)
    yield detokenizer.get_next_output_text(finished=True, delta=True)


TALKS: list[tuple[ChatMessage, ...]] = [
    (),
    (ChatMessage("system", "Be brief."),),
    (ChatMessage("user", "what color?", 1), ChatMessage("assistant", "dark red")),
    (ChatMessage("system", "Antworte kurz."), ChatMessage("user", "größe?\n日本", 1), ChatMessage("assistant", "12 m")),
]


@pytest.mark.parametrize("history", TALKS)
@pytest.mark.parametrize("pictures", [0, 1, 2])
@pytest.mark.parametrize("question", ["what is this?", "größe in m²?\nanswer – in one word"])
def test_a_prompt_is_what_the_processor_makes_of_the_conversation(
    tokens: Path, history: tuple[ChatMessage, ...], pictures: int, question: str
) -> None:
    from transformers import AutoProcessor

    prompt, processor = Prompt(tokens), AutoProcessor.from_pretrained(tokens)
    images = _image_tokens(tokens)
    turns = (*history, ChatMessage("user", question, pictures))
    messages = [{"role": turn.role, "content": _content(turn)} for turn in turns]
    shown = [Image.new("RGB", (336, 336), "red")] * sum(turn.pictures for turn in turns)
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    expected = processor(text=text, images=shown or None).input_ids[0]
    assert _expanded(prompt.encode(question, pictures, history), prompt, images) == expected


@pytest.mark.parametrize("answer", ["dark red", "größe\n12", "7"])
@pytest.mark.parametrize("pictures", [0, 1])
def test_what_training_labels_is_what_the_processor_reads(tokens: Path, answer: str, pictures: int) -> None:
    from transformers import AutoProcessor

    prompt, processor = Prompt(tokens), AutoProcessor.from_pretrained(tokens)
    ids = prompt.encode("what is this?", pictures) + prompt.encode_answer("what is this?", answer, pictures)
    text = f"{prompt.text('what is this?', pictures)} {answer}{processor.tokenizer.eos_token}"
    expected = processor(text=text, images=[Image.new("RGB", (336, 336))] * pictures or None).input_ids[0]
    assert _expanded(ids, prompt, _image_tokens(tokens)) == expected


def _content(turn: ChatMessage) -> list[dict[str, str]]:
    return [{"type": "image"}] * turn.pictures + [{"type": "text", "text": turn.text}]


def _image_tokens(checkpoint: Path) -> int:
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    return int(config["image_seq_length"])


def _expanded(ids: tuple[int, ...], prompt: Prompt, images: int) -> list[int]:
    return [each for token in ids for each in [token] * (images if token == prompt.image_token_id else 1)]


def test_the_embedded_model_s_new_tokenizer_keeps_its_prompts_and_so_its_adapters() -> None:
    recorded = {
        json.loads(file.read_text())["prompt_digest"]
        for file in (ROOT / "models/adapters").glob("*/versions/*/manifest.json")
    }
    assert recorded == {Prompt(CHECKPOINT).digest}
    assert Prompt(CHECKPOINT).digest == Prompt(ROOT / "models/tiny-llava").digest


def test_the_tokenizer_that_is_trained_gives_text_back() -> None:
    from models.tokenizer import train_tokenizer

    trained = train_tokenizer(["USER: what color is the shape? ASSISTANT: red"] * 2)
    assert trained.decode(trained("größe\t7\n日本").input_ids, skip_special_tokens=True) == "größe\t7\n日本"
    assert trained.convert_tokens_to_ids("<0x00>") == len(("<unk>", "<s>", "</s>", "<image>", "<pad>"))


@pytest.mark.parametrize("precision", ["int4", "bfloat16"])
def test_a_small_replica_loads(tmp_path: Path, precision: str) -> None:
    replica.main([str(tmp_path / "small"), "--size", "small", "--precision", precision])
    checkpoint = Checkpoint.load(tmp_path / "small")
    assert Base.of_checkpoint(tmp_path / "small").precision == precision
    layers = checkpoint.model.model.language_model.layers
    down = torch.stack([layer.mlp.down_proj.weight.detach().float() for layer in layers])
    assert down.std().item() == pytest.approx(1 / math.sqrt(256 * 2 * len(layers)), rel=0.1)
    # Weights with a mean push every state the same way, and all answers become alike.
    assert abs(down.mean().item()) < 0.02 * down.std().item()


@pytest.mark.parametrize(("size", "billions"), [("7b", 7.06), ("13b", 13.35)])
def test_the_shapes_are_llava_s(size: str, billions: float) -> None:
    counted = sum(math.prod(shape) for part in replica.parts(replica.config(size)) for shape in part.values())
    assert counted / 1e9 == pytest.approx(billions, abs=0.01)
