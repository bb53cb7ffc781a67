"""Images at the HTTP edge: URLs are fetched in turn and within the deadline, claims are judged, errors are typed."""

import asyncio
import base64
import gc
import gzip
import socket
import threading
import time
import tracemalloc
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.engine.fake import FakeEngine
from service.images import decode, fetch, picture
from service.images.addresses import may_connect
from service.pictures import light
from service.settings import Settings
from service.types import Link, Upload
from tests.conftest import Running, png, serving, until
from tests.origins import Origin, answer, origin
from tests.test_http_edge import QUESTION, ask, assert_error, data_url
from tests.test_images import animated, deep, encode, photo
from tests.test_images_fetch import REDIRECTED_FORMS, REFUSED_FORMS


async def hold(writer: asyncio.StreamWriter) -> None:
    """A server that accepts and says nothing."""
    await asyncio.sleep(60)


async def drip(writer: asyncio.StreamWriter) -> None:
    """A byte at a time."""
    writer.write(b"HTTP/1.1 200 x\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless(writer: asyncio.StreamWriter) -> None:
    """As much as is taken."""
    writer.write(b"HTTP/1.1 200 x\r\n\r\n")
    while True:
        writer.write(bytes(10_000))
        await writer.drain()


@pytest.fixture
async def web() -> AsyncGenerator[Origin, None]:
    async with origin() as made:
        made.paths = {
            "/cat.png": answer(200, png(), "content-type: application/octet-stream"),
            "/away": answer(302, b"", "location: /cat.png"),
            "/metadata": answer(302, b"", "location: http://169.254.169.254/"),
            "/busy": answer(503),
            "/empty": answer(200),
            "/page": answer(200, b"<html></html>"),
            "/large": answer(200, bytes(200_001)),
            "/compressed": answer(200, png(), "content-encoding: gzip"),
            "/hold": hold,
            "/drip": drip,
            "/endless": endless,
            "/bomb": answer(200, gzip.compress(bytes(50_000_000)), "content-encoding: gzip"),
        }
        yield made


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncGenerator[Running, None]:
    """A service of a closed cluster, which may fetch from loopback; the base alone."""
    settings = Settings(adapters=tmp_path, image_url_private=True, image_url_s=0.3, body_limit=200_000)
    async with serving(settings, FakeEngine()) as running:
        yield running


async def test_a_url_that_drips_holds_no_engine_slot_and_its_own_places_are_counted(
    tmp_path: Path, web: Origin
) -> None:
    settings = Settings(
        adapters=tmp_path, image_url_private=True, image_url_s=30, in_flight=1, waiting=1, fetches=1, deadline_s=5
    )
    async with serving(settings, FakeEngine()) as running:
        dripping = asyncio.create_task(ask(running, image=web.url("/drip")))
        await until(lambda: web.hits == 1)
        (await asyncio.wait_for(ask(running), 1)).raise_for_status()
        waiting = asyncio.create_task(ask(running, image=web.url("/cat.png")))
        await until(lambda: running.app.state.service.vqa.fetching.requests == 2)
        assert_error(await ask(running, image=web.url("/cat.png")), 503, "overloaded")
        assert web.hits == 1
        dripping.cancel()
        assert (await waiting).is_success
        assert web.hits == 2


@pytest.mark.parametrize("path", ["/cat.png", "/away"])
async def test_an_image_behind_a_url_is_the_image(cluster: Running, web: Origin, path: str) -> None:
    by_bytes, by_url = await ask(cluster), await ask(cluster, image=web.url(path))
    assert by_url.raise_for_status().json()["answer"] == by_bytes.json()["answer"]
    form = {"question": (None, QUESTION), "image": (None, web.url(path))}
    by_form = await cluster.client.post("/v1/vqa", files=form)
    assert by_form.raise_for_status().json()["answer"] == by_bytes.json()["answer"]
    metrics = (await cluster.client.get("/metrics")).text
    assert 'vqa_image_seconds_count{stage="fetch"} 2.0' in metrics
    assert 'vqa_image_seconds_count{stage="prepare"} 3.0' in metrics


async def test_the_form_sagemaker_endpoints_take_is_answered(cluster: Running, web: Origin) -> None:
    """A LLaVA behind SageMaker's usual handler takes these three and no more."""
    body = {"image": web.url("/cat.png"), "question": QUESTION, "temperature": 0.2}
    response = await cluster.client.post("/v1/vqa", json=body)
    assert response.raise_for_status().json()["usage"]["image_tokens"] > 0


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/nope", 422, "image_not_there"),
        ("/busy", 502, "fetch_failed"),
        ("/compressed", 502, "fetch_failed"),
        ("/hold", 504, "fetch_timeout"),
        ("/drip", 504, "fetch_timeout"),
        ("/large", 413, "image_too_large"),
        ("/endless", 413, "image_too_large"),
        ("/bomb", 502, "fetch_failed"),
        ("/page", 415, "image_type_refused"),
        ("/empty", 400, "image_broken"),
        ("/metadata", 400, "url_refused"),
    ],
)
async def test_what_a_url_leads_to_has_its_own_error(
    cluster: Running, web: Origin, path: str, status: int, code: str
) -> None:
    assert_error(await ask(cluster, image=web.url(path)), status, code)
    assert cluster.app.state.service.vqa.admission.requests == 0
    assert f'vqa_requests_total{{adapter="",outcome="{code}"}} 1.0' in (await cluster.client.get("/metrics")).text
    (await ask(cluster)).raise_for_status()


async def test_a_dead_port_is_502_and_fast(cluster: Running) -> None:
    began = time.perf_counter()
    assert_error(await ask(cluster, image="http://127.0.0.1:1/cat.png"), 502, "fetch_failed")
    assert time.perf_counter() - began < 3


async def test_the_requests_own_deadline_holds_while_fetching(cluster: Running, web: Origin) -> None:
    assert_error(await ask(cluster, image=web.url("/hold"), deadline_s=0.05), 504, "deadline_exceeded")
    assert cluster.app.state.service.vqa.admission.requests == 0


@pytest.fixture
def every_name_is_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver finds every name here, so that only our refusal keeps the service away."""

    def here(_host: str, port: int, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", here)


@pytest.mark.usefixtures("every_name_is_loopback")
async def test_by_default_every_form_of_a_forbidden_url_is_400_with_zero_hits(tmp_path: Path) -> None:
    async with origin(ipv6=True) as forbidden, serving(Settings(adapters=tmp_path), FakeEngine()) as public:
        wrong = []
        for form in REFUSED_FORMS:
            response = await ask(public, image=form.format(port=forbidden.port))
            # A form without a scheme is no URL to us, but base64 that is none.
            if response.status_code != 400 or response.json()["error"]["code"] not in ("url_refused", "image_broken"):
                wrong.append((form, response.text))
    assert wrong == []
    assert forbidden.hits == 0
    assert len(set(REFUSED_FORMS)) >= 100


@pytest.mark.usefixtures("every_name_is_loopback")
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "loopback.test", "LOCALHOST"])
async def test_the_same_server_is_hit_where_private_networks_are_open(cluster: Running, host: str) -> None:
    """What the zero above is worth: these very forms arrive when they may."""
    async with origin(ipv6=True) as open_:
        open_.paths["/"] = answer(200, png())
        (await ask(cluster, image=open_.url(host=host))).raise_for_status()
        assert open_.hits == 1


@pytest.mark.usefixtures("every_name_is_loopback")
@pytest.mark.parametrize("form", REDIRECTED_FORMS)
async def test_a_redirect_to_a_forbidden_url_is_400_with_zero_hits(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = iter([True])  # loopback plays the honest host at first
    monkeypatch.setattr(fetch, "may_connect", lambda *arguments: next(judged, None) or may_connect(*arguments))
    async with (
        origin() as honest,
        origin(ipv6=True) as forbidden,
        serving(Settings(adapters=tmp_path), FakeEngine()) as public,
    ):
        honest.paths["/"] = answer(302, b"", f"location: {form.format(port=forbidden.port)}")
        assert_error(await ask(public, image=honest.url()), 400, "url_refused")
        assert (honest.hits, forbidden.hits) == (1, 0)


async def test_a_refused_request_fetches_nothing(tmp_path: Path, web: Origin) -> None:
    engine = FakeEngine()
    settings = Settings(adapters=tmp_path, image_url_private=True, in_flight=1, waiting=0)
    async with serving(settings, engine) as small:
        assert_error(await ask(small, image=web.url("/cat.png"), adapter="nope"), 404, "adapter_not_found")
        assert web.hits == 0
        engine.step_s = 0.2
        responses = await asyncio.gather(*[ask(small, image=web.url("/cat.png")) for _ in range(5)])
        assert sorted(response.status_code for response in responses) == [200, 503, 503, 503, 503]
        assert web.hits == 1


async def test_a_listed_host_is_the_only_one(tmp_path: Path, web: Origin) -> None:
    settings = Settings(adapters=tmp_path, image_url_private=True, image_url_hosts=("127.0.0.1",))
    async with serving(settings, FakeEngine()) as closed:
        (await ask(closed, image=web.url("/cat.png"))).raise_for_status()
        assert_error(await ask(closed, image=web.url("/cat.png", host="localhost")), 400, "url_refused")
    assert web.hits == 1


@pytest.mark.parametrize(
    ("kind", "file_format"),
    [("image/png", "JPEG"), ("image/jpeg", "WEBP"), ("image/svg+xml", "PNG"), ("text/html", "PNG")],
)
async def test_the_bytes_decide_and_no_type_that_is_claimed(cluster: Running, kind: str, file_format: str) -> None:
    data = png(file_format=file_format)
    plain = (await ask(cluster, image=data_url(data))).raise_for_status().json()["answer"]
    claimed = await ask(cluster, image=f"data:{kind};base64,{data_url(data).partition(',')[2]}")
    assert claimed.raise_for_status().json()["answer"] == plain
    form = await cluster.client.post("/v1/vqa", data={"question": QUESTION}, files={"image": ("photo.jpg", data, kind)})
    assert form.raise_for_status().json()["answer"] == plain
    assert_error(await ask(cluster, image=data_url(b"%PDF-1.7", "png")), 415, "image_type_refused")


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "GIF", "AVIF"])
async def test_of_an_animation_the_first_frame_is_asked_about(cluster: Running, file_format: str) -> None:
    """Its colours are lossless in all but AVIF."""
    data = animated(file_format)
    moving, still = await ask(cluster, image=data_url(data)), await ask(cluster, image=data_url(encode(decode(data))))
    assert moving.raise_for_status().json()["answer"] == still.raise_for_status().json()["answer"]


@pytest.mark.parametrize("route", ["json", "form", "chat", "batch"])
async def test_while_the_engine_works_one_copy_of_an_image_is_kept(tmp_path: Path, route: str) -> None:
    data, engine = photo(1600, 1200, "PNG"), FakeEngine()
    text = data_url(data)
    async with serving(Settings(adapters=tmp_path), engine) as running:
        part = {"type": "image_url", "image_url": {"url": text}}
        turn = {"role": "user", "content": [{"type": "text", "text": QUESTION}, part]}
        path, sent = {
            "json": ("/v1/vqa", {"json": {"question": QUESTION, "image": text}}),
            "form": ("/v1/vqa", {"data": {"question": QUESTION}, "files": {"image": data}}),
            "chat": (
                "/v1/chat/completions",
                {"json": {"model": running.app.state.service.base.id, "messages": [turn]}},
            ),
            "batch": ("/v1/vqa/batch", {"json": {"questions": [QUESTION], "image": text}}),
        }[route]
        request = running.client.build_request("POST", path, **sent)  # type: ignore[arg-type]
        body, headers = request.read(), {"content-type": request.headers["content-type"]}
        (await running.client.post(path, content=body, headers=headers)).raise_for_status()  # what is made once is made
        engine.step_s = 0.5
        tracemalloc.start()
        try:
            answering = asyncio.create_task(running.client.post(path, content=body, headers=headers))
            await until(lambda: engine.running > 0)
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        (await answering).raise_for_status()
    assert len(data) < held < 1.3 * len(data)


async def test_every_kind_of_picture_is_answered(cluster: Running) -> None:
    grey, colour = Image.effect_noise((40, 30), 90), Image.new("RGB", (40, 30), "red")
    indices, turned = Image.frombytes("P", (40, 30), grey.tobytes()), Image.Exif()
    turned[0x0112] = 6
    falling = indices.copy()
    indices.putpalette(bytes(value for value in range(256) for _ in "rgb"))
    falling.putpalette(bytes(255 - value for value in range(256) for _ in "rgb"))
    kinds = {
        "grey": encode(grey),
        "16 bits": encode(deep(grey)),
        "palette": encode(indices),
        "another palette": encode(falling),
        "another shape": encode(Image.frombytes("P", (30, 40), grey.tobytes())),
        "alpha": encode(colour.convert("RGBA")),
        "cmyk": encode(colour.convert("CMYK"), "JPEG"),
        "turned": encode(grey.convert("RGB"), "JPEG", exif=turned),
    }
    answers = {
        kind: (await ask(cluster, image=base64.b64encode(data).decode())).raise_for_status()
        for kind, data in kinds.items()
    }
    told = {kind: answer.json()["answer"] for kind, answer in answers.items()}
    # Equal pixels are one picture; what differs in shape or palette alone is not.
    assert told["grey"] == told["16 bits"] == told["palette"]
    assert len({told[kind] for kind in ("palette", "another palette", "another shape")}) == 3


@pytest.mark.parametrize("start", ["data:image/jpg;base64,", "data:;base64,", "data:image/jpeg;name=a.jpg;base64,", ""])
async def test_a_true_claim_or_none_is_answered(cluster: Running, start: str) -> None:
    encoded = data_url(png(file_format="JPEG")).partition(",")[2]
    (await ask(cluster, image=start + encoded)).raise_for_status()


async def test_small_pictures_do_not_wait_for_large_ones_to_be_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, going = encode(Image.new("RGB", (3000, 3000)), "PNG"), threading.Event()

    def decoding(data: bytes, *rest: Any) -> Any:
        if data == large:
            going.wait(20)
        return picture(data, *rest)

    monkeypatch.setattr("service.pictures.picture", decoding)
    async with serving(Settings(adapters=tmp_path, image_workers=1), FakeEngine()) as running:
        asking = [asyncio.create_task(ask(running, image=data_url(large))) for _ in range(3)]
        await until(lambda: running.app.state.service.vqa.admission.requests == 3)
        for small in (png(), png(file_format="JPEG")):
            (await asyncio.wait_for(ask(running, image=data_url(small)), 5)).raise_for_status()
        going.set()
        assert {(await each).status_code for each in asking} == {200}


async def test_questions_whose_deadline_passes_leave_no_more_threads_decoding_than_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, going, begun, ended = encode(Image.new("RGB", (3000, 3000)), "PNG"), threading.Event(), [0], [0]

    def decoding(*given: Any) -> Any:
        begun[0] += 1
        going.wait(20)
        ended[0] += 1
        return picture(*given)

    monkeypatch.setattr("service.pictures.picture", decoding)
    async with serving(Settings(adapters=tmp_path, image_workers=1), FakeEngine()) as running:
        late = await asyncio.gather(*(ask(running, image=data_url(large), deadline_s=1) for _ in range(8)))
        assert {each.status_code for each in late} == {504}
        assert (begun, ended) == ([1], [0])
        going.set()
        (await ask(running, image=data_url(large))).raise_for_status()
    assert (begun, ended) == ([2], [2])  # the seven that had not begun never did


@pytest.mark.parametrize(
    ("data", "is_light"),
    [
        (b"", True),
        (b"<html>", True),
        (png(), True),
        (png(file_format="JPEG"), True),
        (png(file_format="JPEG")[:30], False),
        (png()[:20], True),
        (png(file_format="WEBP"), False),
        (encode(Image.new("L", (2000, 2001)), "PNG"), False),
        (encode(Image.new("L", (3000, 3000)), "JPEG"), False),
        (png() + bytes(70_000), False),
    ],
)
def test_what_is_little_work_is_told_from_a_small_files_header(data: bytes, is_light: bool) -> None:
    assert light((Upload(data),)) is is_light
    assert not light((Upload(data), Link("https://example.com/x.png")))
