"""The prompt is the base's own template; a caller's text never becomes a token with a meaning of its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest, MalformedRequest, ServiceError
from service.prompt import Prompt
from service.types import ChatMessage
from tests.conftest import CHECKPOINT


def test_the_words_are_llava_s_own(prompt: Prompt) -> None:
    assert prompt.text("what color?") == "USER: <image>\nwhat color? ASSISTANT:"
    assert prompt.text("what color?", pictures=0) == "USER: what color? ASSISTANT:"


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_one_placeholder_per_picture(prompt: Prompt, pictures: int) -> None:
    assert prompt.encode("what color is the shape?", pictures).count(prompt.image_token_id) == pictures


@given(text=st.text(min_size=1, max_size=40), token=st.sampled_from(["<image>", "</s>", "<s>", "<pad>", "<unk>"]))
def test_special_tokens_in_a_question_stay_text(prompt: Prompt, text: str, token: str) -> None:
    try:
        ids = prompt.encode(f"{text}{token}{text}{token[:3]}{token}", pictures=1)
    except MalformedRequest:
        return
    assert ids.count(prompt.image_token_id) == 1
    assert prompt.end_token_id not in ids
    assert prompt.pad_token_id not in ids


def test_turns_are_written_in_order_with_each_its_pictures(prompt: Prompt) -> None:
    history = (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "what color?", 1),
        ChatMessage("assistant", "red"),
    )
    written = prompt.text("and <image> here?", 2, history)
    assert written == (
        "Be brief. USER: <image>\nwhat color? ASSISTANT: red USER: <image>\n<image>\nand < image> here? ASSISTANT:"
    )
    assert prompt.encode("and <image> here?", 2, history).count(prompt.image_token_id) == 3


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'][-1]['text'] }}{% endif %}{% endfor %}",
        "{% if messages[1:] %}{{ raise_exception('no') }}{% endif %}{{ messages[0]['content'][-1]['text'] }}",
    ],
    ids=["drops them", "raises"],
)
def test_turns_that_the_template_has_no_form_for_are_refused(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = Prompt(CHECKPOINT)
    monkeypatch.setattr(prompt, "_template", template)
    assert prompt.text("why?") == "why?"
    with pytest.raises(InvalidRequest, match="chat template"):
        prompt.text("why?", 1, (ChatMessage("assistant", "red"),))


@pytest.mark.parametrize(
    ("text", "error"),
    [("", InvalidRequest), ("   ", InvalidRequest), ("a\0b", MalformedRequest), ("half \ud800 pair", MalformedRequest)],
)
def test_text_that_is_none_is_refused(prompt: Prompt, text: str, error: type[ServiceError]) -> None:
    with pytest.raises(error):
        prompt.encode(text, pictures=int(bool(text)))


def test_a_picture_may_stand_for_the_text(prompt: Prompt) -> None:
    assert prompt.text("", 1) == "USER: <image>\nASSISTANT:"
    assert (
        prompt.encode("", 1, (ChatMessage("user", "", 1), ChatMessage("assistant", "red"))).count(prompt.image_token_id)
        == 2
    )


def test_an_answer_continues_its_question(prompt: Prompt) -> None:
    answer = prompt.encode_answer("what color is the shape?", "dark red")
    assert answer[-1] == prompt.end_token_id
    assert prompt.decode(answer) == "dark red"
    whole = [*prompt.encode("what color is the shape?"), *answer]
    assert prompt.decode([token for token in whole if token != prompt.image_token_id]).endswith("ASSISTANT: dark red")
