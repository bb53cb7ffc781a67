"""A question -> the token ids the model reads, by the base's own chat template; knows neither HTTP nor the engine.

The trainer imports this too, so that an adapter is trained on the token ids that it gets when it is served.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer

from service.errors import InvalidRequest, MalformedRequest
from service.text import is_unicode
from service.types import ChatMessage


class Prompt:
    """The tokenizer and chat template of one base checkpoint. Thread-safe: nothing changes after construction."""

    def __init__(self, checkpoint: Path) -> None:
        """Read tokenizer, template and image token from a llava-hf checkpoint's directory.

        Raises:
            OSError: a file of it is missing or cannot be read.
        """
        self._tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        self._template = _chat_template(checkpoint) or self._tokenizer.chat_template
        config = json.loads((checkpoint / "config.json").read_text())
        self.image_token_id: int = config.get("image_token_id", config.get("image_token_index"))
        self.image_token: str = self._tokenizer.convert_ids_to_tokens(self.image_token_id)
        self.end_token_id: int = self._tokenizer.eos_token_id
        self.pad_token_id: int = self._tokenizer.pad_token_id
        added = (str(token) for token in self._tokenizer.added_tokens_decoder.values())
        self.special = sorted({*self._tokenizer.all_special_tokens, *added, self.image_token}, key=len, reverse=True)
        self.digest: str = self._digest()

    def text(self, question: str, pictures: int = 1, history: tuple[ChatMessage, ...] = ()) -> str:
        """The conversation as the template writes it, up to where the assistant's answer begins.

        `pictures` is the number of images that the question itself shows; those of `history` come before. A special
        token inside a text gets a space after its first character, so that a caller's "<image>" stays plain text.

        Raises:
            MalformedRequest: text that is not valid Unicode.
            InvalidRequest: a message of blanks, or without text and picture, or one that the template cannot write.
        """
        plain = [(message, self._plain(message)) for message in (*history, ChatMessage("user", question, pictures))]
        messages = [
            {
                "role": message.role,
                "content": [{"type": "image"}] * message.pictures + [{"type": "text", "text": text}] * bool(text),
            }
            for message, text in plain
        ]
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise InvalidRequest(f"the model's chat template has no form for these messages: {error}") from error
        for message, text in plain:
            if text not in rendered:
                raise InvalidRequest(f"the model's chat template has no form for messages of the {message.role}")
        return rendered

    def encode(self, question: str, pictures: int = 1, history: tuple[ChatMessage, ...] = ()) -> tuple[int, ...]:
        """Token ids of `text`, with one image token per picture (the model's processor expands it).

        Raises: what `text` raises.
        """
        return tuple(self._tokenizer(self.text(question, pictures, history)).input_ids)

    def encode_answer(self, question: str, answer: str, pictures: int = 1) -> tuple[int, ...]:
        """Token ids that follow `encode(question)` when the assistant answers `answer`, the end token last.

        Raises: what `text` raises.
        """
        start = self.text(question, pictures)
        encoded = self._tokenizer(
            f"{start} {self._plain(ChatMessage('assistant', answer))}", return_offsets_mapping=True
        )
        pairs = zip(encoded.input_ids, encoded.offset_mapping, strict=True)
        return (*(token for token, (_, end) in pairs if end > len(start)), self.end_token_id)

    def encode_conversation(
        self, exchanges: Sequence[tuple[str, str]], pictures: int = 1
    ) -> tuple[tuple[int, ...], tuple[range, ...]]:
        """Token ids of a conversation up to its last answer, and for each answer the range of its tokens among them.

        `exchanges` are questions with their answers; the first question shows the pictures. The end token that the
        model has to write after each answer is not among the ids, since a template may write a history without it.

        Raises:
            MalformedRequest, InvalidRequest: as `text`.
            InvalidRequest: the template writes an answer otherwise once it is part of a history.
        """
        history: tuple[ChatMessage, ...] = ()
        spans, text = [], ""
        for number, (question, answer) in enumerate(exchanges):
            start = self.text(question, 0 if number else pictures, history)
            if not start.startswith(text):
                raise InvalidRequest("the model's chat template writes answers otherwise once they are history")
            text = f"{start} {self._plain(ChatMessage('assistant', answer))}"
            spans.append((len(start), len(text)))
            history += (ChatMessage("user", question, 0 if number else pictures), ChatMessage("assistant", answer))
        encoded = self._tokenizer.backend_tokenizer.encode(text)
        ids, ends = tuple(encoded.ids), [end for _, end in encoded.offsets]
        # Offsets never fall, so each answer's tokens are those that end within its span.
        places = tuple(range(bisect_right(ends, first), bisect_right(ends, last)) for first, last in spans)
        return ids, places

    def encode_plain(self, text: str, pictures: int = 1) -> tuple[int, ...]:
        """Token ids of a text right after its pictures, without a template: LLaVA's form for training the projector.

        Raises: what `text` raises.
        """
        return tuple(
            self._tokenizer(f"{self.image_token * pictures}{self._plain(ChatMessage('assistant', text))}\n").input_ids
        )

    def decode(self, token_ids: tuple[int, ...] | list[int]) -> str:
        """The text of generated ids, without special tokens and without blanks around it."""
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text.strip()

    def _plain(self, message: ChatMessage) -> str:
        text = message.text.strip()
        if not text and (message.text or not message.pictures):
            raise InvalidRequest("the question, or a text that goes with it, is empty")
        if not is_unicode(text):
            raise MalformedRequest("the text holds a NUL or half a surrogate pair: send valid Unicode")
        for token in self.special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _digest(self) -> str:
        """SHA-256, in hex, of the token ids of a sample: checkpoints that make the same of it have the same digest."""
        sample = 'what does <s> mean in "7 red apples"?\nWas it 1,024.5 or – Ünïcode?'
        seen = [self.encode(sample, pictures) for pictures in (0, 1, 2)]
        return hashlib.sha256(json.dumps([seen, self.encode_answer(sample, sample)]).encode()).hexdigest()


def _chat_template(checkpoint: Path) -> str | None:
    if (file := checkpoint / "chat_template.jinja").is_file():
        return file.read_text()
    if (file := checkpoint / "chat_template.json").is_file():
        template: str = json.loads(file.read_text())["chat_template"]
        return template
    return None
