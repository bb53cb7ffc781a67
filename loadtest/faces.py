"""Requests about a picture in the form that each server takes, as bytes, and the answers in its replies.

A unit is what one client sends at once: a request, or several whose answers it needs all.
"""

import base64
import json
from collections.abc import Sequence
from typing import Any

from loadtest.client import post

Unit = tuple[bytes, ...]

QUESTION, MAX_TOKENS = "what color is the shape?", 16
_JSON, _BOUNDARY = "application/json", "----------------manylens"


def vqa(picture: bytes | None, adapter: str | None = None, question: str = QUESTION, **more: Any) -> Unit:
    """Our /v1/vqa with base64 in JSON; None for a picture: text alone."""
    body = {"question": question, "max_tokens": MAX_TOKENS} | ({"adapter": adapter} if adapter else {}) | more
    return (post("/v1/vqa", _JSON, _with_picture(body, picture)),)


def form(picture: bytes, adapter: str | None = None, question: str = QUESTION, path: str = "/v1/vqa") -> Unit:
    """Our /v1/vqa with the picture as a file in a form."""
    fields = {"question": question, "max_tokens": str(MAX_TOKENS)} | ({"adapter": adapter} if adapter else {})
    lines = [
        f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    lines += [f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="image"; filename="picture"\r\n\r\n']
    parts = ("".join(lines).encode(), picture, f"\r\n--{_BOUNDARY}--\r\n".encode())
    return (post(path, f"multipart/form-data; boundary={_BOUNDARY}", b"".join(parts)),)


def batch(picture: bytes, questions: Sequence[str]) -> Unit:
    """Our /v1/vqa/batch: several questions about one picture in one request."""
    asked = [{"question": question, "max_tokens": MAX_TOKENS} for question in questions]
    return (post("/v1/vqa/batch", _JSON, _with_picture({"questions": asked}, picture)),)


def chat(
    picture: bytes | None, model: str, question: str = QUESTION, max_tokens: int = MAX_TOKENS, **more: Any
) -> Unit:
    """OpenAI's chat, as vLLM's server and ours take it; None for a picture: text alone."""
    content: list[Any] = [{"type": "text", "text": question}]
    if picture is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": "@"}})
    body = {
        "model": model, "max_tokens": max_tokens, "temperature": 0,
        "messages": [{"role": "user", "content": content}], **more,
    }  # fmt: skip
    head, _, tail = json.dumps(body).encode().partition(b'"@"')
    middle = b'"' + _data_url(picture) + b'"' if picture is not None else b""
    return (post("/v1/chat/completions", _JSON, b"".join((head, middle, tail))),)


def chats(picture: bytes, model: str, questions: Sequence[str]) -> Unit:
    """A chat request for each question about one picture."""
    return tuple(chat(picture, model, question)[0] for question in questions)


def answers(body: bytes) -> list[str]:
    """The answers in the body of a reply to any of these, without blanks around them.

    Raises:
        ValueError: it is an error, or no such reply.
    """
    found = json.loads(body)
    if "results" in found:
        return [answer for each in found["results"] for answer in _of(each)]
    return _of(found)


def _of(found: Any) -> list[str]:
    if "answer" in found:
        return [str(found["answer"]).strip()]
    if "choices" in found:
        return [str(each["message"]["content"]).strip() for each in found["choices"]]
    raise ValueError(f"no answer: {json.dumps(found)[:300]}")


def _with_picture(body: dict[str, Any], picture: bytes | None) -> bytes:
    text = json.dumps(body).encode()
    return text if picture is None else b'{"image": "' + _data_url(picture) + b'", ' + text[1:]


def _data_url(picture: bytes) -> bytes:
    kind = b"jpeg" if picture.startswith(b"\xff\xd8") else b"png"
    return b"data:image/" + kind + b";base64," + base64.b64encode(picture)
