"""What clients were seen to send of images and forms, as HTTP: each is answered as its sender means it."""

import base64
import struct
import zlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from service.engine.fake import FakeEngine
from service.settings import Settings
from tests.conftest import Running, png, serving
from tests.origins import Origin, answer, origin
from tests.test_http_edge import QUESTION, ask, assert_error
from tests.test_images import photo

PNG = png("blue", (96, 72))
ENCODED = base64.b64encode(PNG).decode()


@pytest.fixture
async def base(tmp_path: Path) -> AsyncGenerator[Running, None]:
    """A service of the base alone that may fetch from loopback."""
    async with serving(Settings(adapters=tmp_path, image_url_private=True, image_url_s=2), FakeEngine()) as running:
        yield running


async def said(running: Running, **fields: Any) -> str:
    answered: str = (await ask(running, **fields)).raise_for_status().json()["answer"]
    return answered


async def form(running: Running, *parts: bytes, content_type: str = "multipart/form-data; boundary=BB") -> Any:
    """What is answered to a form of these parts, each written as it goes over the wire."""
    body = b"".join(b"--BB\r\n" + part + b"\r\n" for part in parts) + b"--BB--\r\n"
    return await running.client.post("/v1/vqa", content=body, headers={"content-type": content_type})


def part(name: str, content: bytes, more: str = "", kind: str | None = None) -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"{more}'
    return "\r\n".join([head, *([f"Content-Type: {kind}"] if kind else []), "", ""]).encode() + content


ASKED = part("question", QUESTION.encode())


@pytest.mark.parametrize(
    "image",
    [
        "data:image/png;base64," + "\r\n".join(ENCODED[at : at + 76] for at in range(0, len(ENCODED), 76)),
        f" data:image/png;base64,{ENCODED}",
        f"data:image/png;base64,{ENCODED.rstrip('=')}",
        f"data:image/png;base64, {ENCODED}",
        f"data:image/png;base64,{ENCODED}\n",
        f"data:image/png;charset=utf-8;base64,{ENCODED}",
        f"data:image/png; BASE64,{ENCODED}",
        f"data:image/png;base64,{ENCODED.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
        f"DATA:;base64,{ENCODED}",
        f"\t{ENCODED.rstrip('=')}\r\n",
    ],
)
async def test_11_base64_with_white_space_without_padding_or_with_parameters(base: Running, image: str) -> None:
    assert await said(base, image=image) == await said(base, image=ENCODED)


@pytest.mark.parametrize("image", [f"{ENCODED}A", "ENCODED=A", "====", f"{ENCODED}ä", "https", "data:image/png,%89PNG"])
async def test_11_what_is_no_base64_is_told_in_a_sentence_about_images(base: Running, image: str) -> None:
    message = assert_error(await ask(base, image=image), 400, "image_broken")
    assert message.startswith("the image is ")
    assert "pydantic" not in message


@pytest.mark.parametrize("image", [7, [ENCODED], {"url": ENCODED}, True])
async def test_11_an_image_that_is_no_text_is_told_what_one_is(base: Running, image: Any) -> None:
    assert "an image is text" in assert_error(await ask(base, image=image), 422, "invalid_request")


@pytest.mark.parametrize("claimed", ["image/jpeg", "image", "binary/octet-stream", "text/plain", "image/x-unheard-of"])
async def test_13_a_claimed_type_that_is_wrong(base: Running, claimed: str) -> None:
    plain = await said(base, image=ENCODED)
    assert await said(base, image=f"data:{claimed};base64,{ENCODED}") == plain
    sent = await form(base, ASKED, part("image", PNG, '; filename="photo.jpg"', claimed))
    assert sent.raise_for_status().json()["answer"] == plain


def _with(kind: bytes, content: bytes) -> bytes:
    """The picture with one more chunk before its pixels."""
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return PNG[:33] + chunk + PNG[33:]


@pytest.mark.parametrize(
    "data",
    [
        _with(b"iCCP", b"ICC Profile\0\0" + zlib.compress(bytes(1_600_000))),
        _with(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 1_200_000)),
        _with(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"x" * 1_200_000)),
        _with(b"tEXt", b"workflow\0" + b"x" * 1_200_000),
        _with(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 1_200_000)),
        _with(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"x" * 1_200_000)),
    ],
    ids=["colour profile", "packed text", "packed international text", "text", "packed XMP", "packed EXIF"],
)
async def test_14_a_png_with_large_notes_or_profiles(base: Running, data: bytes) -> None:
    sent = await form(base, ASKED, part("image", data, '; filename="x.png"', "image/png"))
    assert sent.raise_for_status().json()["answer"] == await said(base, image=ENCODED)


async def test_16_a_jpeg_without_its_end_marker(base: Running) -> None:
    whole = photo(300, 200)
    plain = await said(base, image=base64.b64encode(whole).decode())
    sent = await form(base, ASKED, part("image", whole[:-2], '; filename="x.jpg"', "image/jpeg"))
    assert sent.raise_for_status().json()["answer"] == plain
    sent = await form(base, ASKED, part("image", whole[:-200], '; filename="x.jpg"', "image/jpeg"))
    assert "truncated" in assert_error(sent, 400, "image_broken")


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ("", "image/png"),
        ("", None),
        ("; filename*=UTF-8''%E7%85%A7.png", "image/png"),
        ('; filename=""', "image/png"),
        ('; filename="x.png"', None),
    ],
)
async def test_17_an_image_part_without_a_files_name(base: Running, more: str, kind: str | None) -> None:
    sent = await form(base, ASKED, part("image", PNG, more, kind))
    assert sent.raise_for_status().json()["answer"] == await said(base, image=ENCODED)


async def test_17_an_image_part_may_be_text_of_any_length(base: Running) -> None:
    large = photo(1500, 1200, "PNG")
    text = base64.b64encode(large)
    assert len(text) > 1_100_000
    sent = await form(base, ASKED, part("image", text))
    assert sent.raise_for_status().json()["answer"] == await said(base, image=text.decode())


async def test_19_fields_that_a_browser_leaves_blank_are_not_given(base: Running) -> None:
    plain, seen = await said(base, image=None), await said(base, image=ENCODED)
    blank = [part(name, b"") for name in ("adapter", "temperature", "max_tokens", "choices", "stream", "deadline_s")]
    image = part("image", PNG, '; filename="x.png"', "image/png")
    assert (await form(base, ASKED, *blank, image)).raise_for_status().json()["answer"] == seen
    none = part("image", b"", '; filename=""', "application/octet-stream")
    assert (await form(base, ASKED, none, *blank)).raise_for_status().json()["answer"] == plain
    assert "question" in assert_error(await form(base, part("question", b"  "), image), 422, "invalid_request")


@pytest.mark.parametrize("choices", [[b"yes", b"no"], [b'["yes", "no"]'], [b"yes", b"", b"no"]])
async def test_19_choices_are_repeated_fields_or_one_list(base: Running, choices: list[bytes]) -> None:
    sent = await form(base, ASKED, *(part("choices", choice) for choice in choices))
    assert [each["text"] for each in sent.raise_for_status().json()["choices"]] == ["yes", "no"]


async def test_19_what_is_wrong_with_a_form_names_the_field(base: Running) -> None:
    assert "question came 2 times" in assert_error(await form(base, ASKED, ASKED), 400, "malformed_request")
    assert "choices" in assert_error(await form(base, ASKED, part("choices", b"[yes")), 400, "malformed_request")
    assert "adapter" in assert_error(await form(base, ASKED, part("adapter", b"\xff")), 400, "malformed_request")
    file = part("voice", b"RIFF", '; filename="x.wav"', "audio/wav")
    assert "voice" in assert_error(await form(base, ASKED, file), 422, "invalid_request")
    assert "boundary" in assert_error(
        await form(base, ASKED, content_type="multipart/form-data"), 400, "malformed_request"
    )
    nameless = b"Content-Disposition: form-data\r\n\r\nx"
    assert "name" in assert_error(await form(base, ASKED, nameless), 400, "malformed_request")
    cut = await base.client.post(
        "/v1/vqa", content=b"--B", headers={"content-type": "multipart/form-data; boundary=BB"}
    )
    assert "ends before" in assert_error(cut, 400, "malformed_request")


@pytest.mark.parametrize(
    "content_type", ["Multipart/Form-Data; boundary=BB", 'multipart/form-data ;charset=x; boundary="BB"']
)
async def test_19_media_types_have_no_case(base: Running, content_type: str) -> None:
    (await form(base, ASKED, content_type=content_type)).raise_for_status()


@pytest.fixture
async def web() -> AsyncGenerator[Origin, None]:
    async with origin() as made:
        yield made


@pytest.mark.parametrize(
    ("status", "told"), [(403, 422), (404, 422), (410, 422), (429, 502), (204, 502), (304, 502), (503, 502)]
)
async def test_24_what_asking_again_does_not_mend_is_the_callers_to_mend(
    base: Running, web: Origin, status: int, told: int
) -> None:
    web.paths["/x.png"] = answer(status)
    part = {"type": "image_url", "image_url": {"url": web.url("/x.png")}}
    turn = {"role": "user", "content": [{"type": "text", "text": QUESTION}, part]}
    chat = {"model": base.app.state.service.base.id, "messages": [turn]}
    assert (await base.client.post("/v1/chat/completions", json=chat)).status_code == told
    code = "image_not_there" if told == 422 else "fetch_failed"
    assert str(status) in assert_error(await ask(base, image=web.url("/x.png")), told, code)


async def test_24_a_host_without_an_address_or_an_answer_is_502(base: Running) -> None:
    for url in ("https://no-such-host.invalid/a.png", "http://127.0.0.1:1/a.png"):
        assert_error(await ask(base, image=url), 502, "fetch_failed")


@pytest.mark.parametrize("words", ["", "none", "utf-8", "aws-chunked", "identity"])
async def test_25_a_content_encoding_that_is_none(base: Running, web: Origin, words: str) -> None:
    web.paths["/x.png"] = answer(200, PNG, f"content-encoding: {words}", "content-type: image/png")
    assert await said(base, image=web.url("/x.png")) == await said(base, image=ENCODED)
