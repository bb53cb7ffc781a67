"""The HTTP face over the fake engine: every request ends in an answer or in the one error shape."""

import asyncio
import base64
import json
import math
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import logs
from service.engine.fake import FakeEngine
from service.settings import Settings
from service.workers import Workers
from tests.conftest import Running, png, serving
from tests.test_images import png_header

QUESTION = "what color is the shape?"


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def assert_error(response: httpx.Response, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"code", "message", "request_id"}
    assert body["error"]["code"] == code
    assert body["error"]["request_id"] == response.headers["x-request-id"]
    return str(body["error"]["message"])


async def ask(running: Running, **fields: Any) -> httpx.Response:
    return await running.client.post("/v1/vqa", json={"question": QUESTION, "image": data_url(png())} | fields)


async def test_an_answer_has_the_documented_shape(fake: Running) -> None:
    body = (await ask(fake, adapter="digits")).raise_for_status().json()
    sure = {"confidence", "calibrated_confidence", "abstained", "expected_error", "expected_coverage", "none_of_these"}
    assert body.keys() == {"id", "answer", "choices", "adapter", "finish_reason", "usage", "timing"} | sure
    assert body["adapter"]["name"] == "digits"
    assert len(body["adapter"]["version"]) == 64
    assert 0 < body["confidence"] <= 1
    assert body["usage"]["completion_tokens"] > 0
    assert body["timing"]["total_s"] >= body["timing"]["first_token_s"] > 0


async def test_json_and_form_mean_the_same(fake: Running) -> None:
    by_json = await ask(fake, adapter="shapes", max_tokens=2)
    fields = {"question": QUESTION, "adapter": "shapes", "max_tokens": "2"}
    by_form = await fake.client.post("/v1/vqa", data=fields, files={"image": ("../../etc/x.png", png())})
    for part in ("answer", "adapter", "usage"):
        assert by_json.json()[part] == by_form.json()[part]


async def test_a_small_question_crosses_to_a_thread_once(fake: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each crossing takes longer than all that a small body needs."""
    crossings, run = list[str](), Workers.run

    async def counting(self: Workers, function: Any, *args: Any) -> Any:
        crossings.append(logs.request_id.get())
        return await run(self, function, *args)

    monkeypatch.setattr(Workers, "run", counting)
    image, form = data_url(png()), {"data": {"question": QUESTION}, "files": {"image": ("x.png", png())}}
    for id_, body in (("json", {"json": {"question": QUESTION, "image": image}}), ("form", form)):
        (await fake.client.post("/v1/vqa", headers={"x-request-id": id_}, **body)).raise_for_status()
    assert [id_ for id_ in crossings if id_] == ["json", "form"]  # the rest follows the store


async def test_adapters_pictures_and_questions_change_the_answer(fake: Running) -> None:
    answers = [
        (await ask(fake, **fields)).json()["answer"]
        for fields in (
            {},
            {"adapter": "digits"},
            {"image": data_url(png("blue"))},
            {"question": "where?"},
            {"image": None},
        )
    ]
    assert len(set(answers)) == len(answers)


async def test_model_is_accepted_for_adapter(fake: Running) -> None:
    assert (await ask(fake, model="digits")).json()["adapter"]["name"] == "digits"


async def test_choices_bound_the_answer_and_their_probabilities_sum_to_one(fake: Running) -> None:
    choices = ["red circle", " green square ", "yes", "no"]
    body = (await ask(fake, choices=choices, adapter="digits")).raise_for_status().json()
    assert [choice["text"] for choice in body["choices"]] == ["red circle", "green square", "yes", "no"]
    best = max(body["choices"], key=lambda choice: choice["probability"])
    assert body["answer"] == best["text"]
    assert sum(choice["probability"] for choice in body["choices"]) == pytest.approx(1)
    assert body["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] >= 2
    fields = [("question", QUESTION), ("adapter", "digits"), *(("choices", choice) for choice in choices)]
    parts: list[Any] = [("image", ("x.png", png())), *((name, (None, value)) for name, value in fields)]
    form = await fake.client.post("/v1/vqa", files=parts)
    assert form.json()["choices"] == body["choices"]
    streamed = (await ask(fake, choices=choices, adapter="digits", stream=True)).text
    assert streamed.startswith(f'data: {{"delta": "{body["answer"]}"}}\n\n')
    assert fake.app.state.service.vqa.admission.requests == 0


@pytest.mark.parametrize("choices", [[], ["one"], ["same", "same "], ["a", ""], ["x" * 999, "y" * 999], 7])
async def test_choices_that_leave_nothing_to_choose_are_refused(fake: Running, choices: Any) -> None:
    assert_error(await ask(fake, choices=choices), 422, "invalid_request")


async def test_an_unknown_adapter_is_404_and_names_what_there_is(fake: Running) -> None:
    message = assert_error(await ask(fake, adapter="nope"), 404, "adapter_not_found")
    assert "digits, shapes" in message


@pytest.fixture
def touched() -> Iterator[list[str]]:
    """Every path opened or listed and every name resolved in this process, while the test runs."""
    seen: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("open", "os.listdir", "os.scandir", "socket.getaddrinfo"):
            seen.append(str(arguments[0]))

    sys.addaudithook(hook)  # which cannot be taken away again
    yield seen
    watching = False


async def test_a_name_that_is_a_path_is_404_and_touches_nothing(
    fake_adapters: Path, tmp_path: Path, touched: list[str]
) -> None:
    shutil.copytree(fake_adapters, tmp_path / "store")
    outside = shutil.copytree(fake_adapters, tmp_path / "outside") / "digits"
    hub = "llava-hf/llava-1.5-7b-hf"
    names = [
        "",
        "..",
        "../outside/digits",
        f"{outside}",
        "digits/../../outside/digits",
        "~",
        hub,
    ]
    names += [
        "~root",
        "/etc/passwd",
        "file:///etc/passwd",
        "..\\outside\\digits",
        "%2e%2e/outside/digits",
        "digits/versions",
    ]
    async with serving(Settings(adapters=tmp_path / "store"), FakeEngine()) as running:
        (await ask(running, adapter="digits")).raise_for_status()
        touched.clear()
        for name in names:
            assert_error(await ask(running, adapter=name), 404, "adapter_not_found")
            batch = {"questions": ["what?"], "adapters": [name]}
            (result,) = (await running.client.post("/v1/vqa/batch", json=batch)).json()["results"]
            assert result["error"]["code"] == "adapter_not_found"
            chat = {"model": name, "messages": [{"role": "user", "content": "what?"}]}
            assert (await running.client.post("/v1/chat/completions", json=chat)).status_code == 404
            lever = await running.client.get(f"/v1/adapters/{quote(name, safe='')}")
            assert lever.status_code == (404 if name else 307)
    (tmp_path / "opened").touch()
    assert str(tmp_path / "opened") in touched  # the watch works
    assert [path for path in touched if "outside" in path or "link" in path or "passwd" in path or hub in path] == []


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        (data_url(png()[:60]), 400, "image_broken"),
        (data_url(b""), 400, "image_broken"),
        ("data:image/png;base64,????", 400, "image_broken"),
        ("not base64, at all", 400, "image_broken"),
        ("data:image/png,raw", 400, "image_broken"),
        ("it is a cät", 400, "image_broken"),
        (data_url(b"<html>", "png"), 415, "image_type_refused"),
        (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg+xml"), 415, "image_type_refused"),
        (data_url(b"GIF89a" + bytes(20), "gif"), 400, "image_broken"),
        (data_url(b"II*\0" + bytes(64), "tiff"), 415, "image_type_refused"),
        (data_url(b"SIMPLE  =                    T", "fits"), 415, "image_type_refused"),
        (data_url(b"8BPS\0\1", "vnd.adobe.photoshop"), 415, "image_type_refused"),
        (data_url(b"%!PS-Adobe-3.0 EPSF-3.0", "x-eps"), 415, "image_type_refused"),
        (data_url(b"%PDF-1.7", "pdf"), 415, "image_type_refused"),
        (data_url(png_header(13_000, 13_000)), 413, "image_too_large"),
        (data_url(png_header(20_000, 20_000)), 413, "image_too_large"),
        (data_url(png_header(1, 5000)), 422, "image_shape_refused"),
        ("file:///etc/passwd", 400, "url_refused"),
    ],
)
async def test_a_bad_image_gets_its_own_error(fake: Running, image: str, status: int, code: str) -> None:
    assert_error(await ask(fake, image=image), status, code)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"question": None}, "question"),
        ({"question": ""}, "question"),
        ({"question": "   "}, "empty"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e9}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"deadline_s": -1}, "deadline_s"),
        ({"typo": 1}, "typo"),
    ],
)
async def test_a_field_that_means_nothing_is_named(fake: Running, fields: dict[str, Any], word: str) -> None:
    assert word in assert_error(await ask(fake, **fields), 422, "invalid_request")


async def test_a_missing_question_is_422(fake: Running) -> None:
    assert "question" in assert_error(await fake.client.post("/v1/vqa", json={}), 422, "invalid_request")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b"7"])
async def test_a_body_that_is_no_request_is_422(fake: Running, body: bytes) -> None:
    response = await fake.client.post("/v1/vqa", content=body, headers={"content-type": "application/json"})
    assert_error(response, 422, "invalid_request")


@pytest.mark.parametrize("field", ["temperature", "deadline_s", "max_tokens", "priority"])
@pytest.mark.parametrize("number", ["NaN", "-Infinity", "Infinity", "1e999", "-1", "1" + "0" * 400, '"NaN"'])
async def test_a_number_that_is_none_or_out_of_bounds_is_422(fake: Running, field: str, number: str) -> None:
    body = f'{{"question": "what?", "{field}": {number}}}'
    assert field in assert_error(await fake.client.post("/v1/vqa", content=body), 422, "invalid_request")


READS_JSON = [
    ("POST", "/v1/vqa"),
    ("POST", "/v1/vqa/batch"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/feedback"),
    ("PUT", "/v1/adapters/digits"),
    ("POST", "/v1/adapters/digits/rollback"),
]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b"[" * 5000,
        b'{"question": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
        b'{"question": "one", "question": "two"}',
        b'{"question": "one", "quest\\u0069on": "two"}',
        b'{"messages": [{"role": "user", "content": "x", "role": "system"}]}',
        b'{"question": "half a pair: \\ud800"}',
        b'{"question": "what?"} {}',
    ],
)
@pytest.mark.parametrize(("method", "path"), READS_JSON)
async def test_json_that_is_broken_too_deep_or_says_a_key_twice_is_400(
    fake: Running, method: str, path: str, body: bytes
) -> None:
    response = await fake.client.request(method, path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "malformed_request"


@pytest.mark.parametrize("fields", [{"question": "a\0b"}, {"choices": ["a", "b\0"]}])
async def test_text_that_is_no_unicode_is_400(fake: Running, fields: dict[str, Any]) -> None:
    assert_error(await ask(fake, **fields), 400, "malformed_request")


@pytest.mark.parametrize("size", [16_001, 1_000_000])
async def test_a_text_over_its_limit_is_413(fake: Running, size: int) -> None:
    assert "question" in assert_error(await ask(fake, question="x" * size), 413, "text_too_long")
    chat = {"model": "digits", "messages": [{"role": "user", "content": "x" * size}]}
    assert (await fake.client.post("/v1/chat/completions", json=chat)).status_code == 413
    parts = [("question", (None, "x" * size))]
    assert_error(await fake.client.post("/v1/vqa", files=parts), 413, "text_too_long")


async def test_a_question_over_the_context_is_422(fake: Running) -> None:
    assert_error(await ask(fake, question="what is it? " * 1000), 422, "prompt_too_long")


async def test_max_tokens_is_a_ceiling_and_may_be_over_the_context(fake: Running) -> None:
    plain = await ask(fake)
    assert (await ask(fake, max_tokens=4096)).raise_for_status().json()["answer"] == plain.json()["answer"]


@pytest.mark.parametrize("token", ["<image>", "</s>", "<s>", "<image>" * 100])
async def test_special_tokens_in_a_question_are_words_and_no_images(fake: Running, token: str) -> None:
    alone = (await ask(fake, question=f"what is {token}?", image=None)).raise_for_status().json()
    seen = (await ask(fake, question=f"what is {token}?")).raise_for_status().json()
    assert alone["usage"]["image_tokens"] == 0
    assert seen["usage"]["image_tokens"] == 1


async def test_several_images_are_seen_in_the_order_they_come(fake: Running) -> None:
    red, blue = png("red"), png("blue")
    there = (await ask(fake, image=None, images=[data_url(red), data_url(blue)])).raise_for_status().json()
    back = (await ask(fake, image=None, images=[data_url(blue), data_url(red)])).json()
    beside = (await ask(fake, image=data_url(red), images=[data_url(blue)])).json()
    files = [("images", red), ("images", blue)]
    form = (await fake.client.post("/v1/vqa", data={"question": QUESTION}, files=files)).json()
    texts = [("question", (None, QUESTION)), *(("images", (None, data_url(image))) for image in (red, blue))]
    fields = (await fake.client.post("/v1/vqa", files=texts)).json()
    assert there["answer"] == beside["answer"] == form["answer"] == fields["answer"] != back["answer"]
    assert there["usage"]["image_tokens"] == 2


async def test_more_images_than_one_question_may_have_are_refused(fake_adapters: Path) -> None:
    settings = Settings(adapters=fake_adapters, images_per_question=2)
    async with serving(settings, FakeEngine()) as running:
        (await ask(running, images=[data_url(png())])).raise_for_status()
        message = assert_error(await ask(running, images=[data_url(png())] * 2), 422, "invalid_request")
        assert "3 images" in message
        parts = [("image", png())] * 3
        response = await running.client.post("/v1/vqa", data={"question": QUESTION}, files=parts)
        assert "3 images" in assert_error(response, 422, "invalid_request")


@pytest.mark.parametrize("fields", [{}, {"image": None}, {"images": []}])
async def test_no_image_is_a_question_of_text_alone(fake: Running, fields: dict[str, Any]) -> None:
    body = (await fake.client.post("/v1/vqa", json={"question": QUESTION} | fields)).raise_for_status().json()
    assert body["usage"]["image_tokens"] == 0


async def test_images_as_files_and_as_text_are_refused(fake: Running) -> None:
    fields = {"question": QUESTION, "image": data_url(png())}
    assert_error(await fake.client.post("/v1/vqa", data=fields, files={"image": png()}), 422, "invalid_request")
    assert_error(await fake.client.post("/v1/vqa", data=fields, files={"other": png()}), 422, "invalid_request")


@pytest.mark.parametrize("part", [("image", ("x.png", png())), ("choices", (None, "yes")), ("x", (None, ""))])
async def test_a_form_of_a_thousand_parts_is_400(fake: Running, part: tuple[str, Any]) -> None:
    parts = [("question", (None, QUESTION)), *[part] * 1000]
    assert_error(await fake.client.post("/v1/vqa", files=parts), 400, "malformed_request")


@pytest.mark.parametrize("name", ["../../etc/x.png", "/etc/passwd", "C:\\x.png", "a\0.png", "~/.ssh/id", "x" * 300])
async def test_a_files_name_is_ignored(fake: Running, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = await fake.client.post("/v1/vqa", data={"question": QUESTION}, files={"image": ("x.png", png())})
    named = await fake.client.post("/v1/vqa", data={"question": QUESTION}, files={"image": (name, png())})
    assert named.raise_for_status().json()["answer"] == plain.json()["answer"]


async def test_a_body_over_the_limit_is_413_even_when_it_hides_its_length(fake_adapters: Path) -> None:
    async with serving(Settings(adapters=fake_adapters, body_limit=10_000), FakeEngine()) as small:
        assert_error(await ask(small, image="x" * 20_000), 413, "body_too_large")
        sent = 0

        async def chunks() -> Any:
            nonlocal sent
            for _ in range(1000):
                sent += 1000
                yield b"x" * 1000

        response = await small.client.post("/v1/vqa", content=chunks(), headers={"content-type": "application/json"})
        assert_error(response, 413, "body_too_large")
        (await ask(small)).raise_for_status()


ENGINE_ONLY = [
    "/v1/messages",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/v1/systemone",
    "/pause",
    "/resume",
    "/sleep",
    "/wake_up",
    "/tokenize",
    "/detokenize",
    "/update_weights",
    "/collective_rpc",
    "/start_profile",
    "/reset_prefix_cache",
    "/server_info",
    "/version",
    "/load",
    "/generate",
    "/pooling",
    "/score",
    "/rerank",
]


@pytest.mark.parametrize("path", ["/nope", *ENGINE_ONLY])
async def test_what_we_do_not_serve_is_404_in_our_shape(fake: Running, path: str) -> None:
    for method in ("GET", "POST"):
        assert_error(await fake.client.request(method, path, json={}), 404, "http_error")


async def test_a_wrong_method_is_405_in_our_shape(fake: Running) -> None:
    assert_error(await fake.client.get("/v1/vqa"), 405, "http_error")


async def test_a_request_id_is_taken_when_sane_and_made_otherwise(fake: Running) -> None:
    for given_id, kept in (("abc-123", True), ("x" * 500, False), ("a b", False)):
        response = await fake.client.get("/healthz", headers={"x-request-id": given_id})
        assert (response.headers["x-request-id"] == given_id) is kept


async def test_a_deadline_ends_in_504_and_frees_the_engine(fake_adapters: Path) -> None:
    engine = FakeEngine()
    async with serving(Settings(adapters=fake_adapters), engine) as slow:
        engine.step_s = 5.0
        assert_error(await ask(slow, deadline_s=0.05), 504, "deadline_exceeded")
        assert engine.running == 0
        assert slow.app.state.service.vqa.admission.requests == 0


async def test_tokens_made_before_a_deadline_are_counted_though_nobody_heard_them(fake_adapters: Path) -> None:
    class Stalling(FakeEngine):
        steps = -math.inf

        async def _step(self) -> None:
            await super()._step()
            self.steps += 1
            if self.steps == 2:
                self.step_s = 60.0

    engine = Stalling()
    async with serving(Settings(adapters=fake_adapters), engine) as running:
        engine.steps = 0
        assert_error(await ask(running, deadline_s=0.5), 504, "deadline_exceeded")
        tokens = 'vqa_tokens_total{adapter="",kind="completion"} 2.0'
        assert tokens in (await running.client.get("/metrics")).text


async def test_more_than_it_holds_is_503_with_retry_after(fake_adapters: Path) -> None:
    engine = FakeEngine()
    async with serving(Settings(adapters=fake_adapters, in_flight=2, waiting=2), engine) as small:
        engine.step_s = 0.05
        responses = await asyncio.gather(*[ask(small) for _ in range(12)])
        refused = [response for response in responses if response.status_code == 503]
        assert len(refused) == 8
        assert_error(refused[0], 503, "overloaded")
        assert refused[0].headers["retry-after"] == "1"


async def test_not_ready_until_warm_but_live_from_the_start(fake_adapters: Path) -> None:
    class SlowStart(FakeEngine):
        async def start(self) -> None:
            await asyncio.sleep(0.3)
            await super().start()

    async with serving(Settings(adapters=fake_adapters), SlowStart(), wait=False) as cold:
        assert (await cold.client.get("/healthz")).status_code == 200
        response = await cold.client.get("/readyz")
        assert_error(response, 503, "engine_unavailable")
        assert response.headers["retry-after"]
        assert_error(await ask(cold), 503, "engine_unavailable")
        await asyncio.wait_for(cold.app.state.service.warm.wait(), 60)
        assert (await cold.client.get("/readyz")).status_code == 200


async def test_adapters_are_listed_with_base_precision_and_scores(fake: Running) -> None:
    for name in ("digits", "shapes"):  # what a manifest says is known once its adapter was asked
        (await ask(fake, adapter=name)).raise_for_status()
    body = (await fake.client.get("/v1/adapters")).json()
    assert body["base"]["precision"] == "int4"
    assert [adapter["name"] for adapter in body["adapters"]] == ["digits", "shapes"]
    assert {(adapter["state"], adapter["proof"]) for adapter in body["adapters"]} == {("serving", "proven")}
    assert all(adapter["adapter_right"] > adapter["base_right"] for adapter in body["adapters"])
    assert body["refused"] == []


async def test_a_refused_adapter_is_listed_with_its_reason_and_others_serve(
    fake_adapters: Path, tmp_path: Path
) -> None:
    shutil.copytree(fake_adapters, tmp_path / "store")
    (broken,) = (tmp_path / "store/shapes/versions").iterdir()
    (broken / "README.md").write_text("tampered")
    async with serving(Settings(adapters=tmp_path / "store"), FakeEngine()) as running:
        for _ in range(2):
            assert "refused" in assert_error(await ask(running, adapter="shapes"), 404, "adapter_not_found")
        body = (await running.client.get("/v1/adapters")).json()
        assert [adapter["name"] for adapter in body["adapters"]] == ["digits"]
        assert [(refused["name"], refused["reason"]) for refused in body["refused"]] == [("shapes", "corrupt")]
        (await ask(running, adapter="digits")).raise_for_status()
        metrics = (await running.client.get("/metrics")).text
        assert 'vqa_adapter_rejected_total{reason="corrupt"} 1.0' in metrics


async def test_more_adapters_than_are_loaded_at_once_all_answer(fake: Running, fake_adapters: Path) -> None:
    names = ["digits", "shapes"]
    alone = {name: (await ask(fake, adapter=name)).json()["answer"] for name in names}
    engine = FakeEngine()
    async with serving(Settings(adapters=fake_adapters, max_cpu_loras=1), engine) as small:
        replies = await asyncio.gather(*[ask(small, adapter=name) for name in names * 16])
    for name, reply in zip(names * 16, replies, strict=True):
        body = reply.raise_for_status().json()
        assert (body["adapter"]["name"], body["answer"]) == (name, alone[name])
    assert engine.most == 1


async def test_metrics_count_outcomes_and_never_label_unknown_names(fake: Running) -> None:
    (await ask(fake, adapter="digits")).raise_for_status()
    await ask(fake, adapter="secret-name")
    text = (await fake.client.get("/metrics")).text
    assert 'vqa_requests_total{adapter="digits",outcome="ok"} 1.0' in text
    assert 'vqa_requests_total{adapter="",outcome="adapter_not_found"} 1.0' in text
    assert "secret-name" not in text
    assert "vqa_in_flight 0.0" in text
    for series in ("time_to_first_token_seconds", "queue_seconds", "image_seconds", "tokens_total", "adapter_resident"):
        assert f"vqa_{series}" in text


async def test_every_reference_of_the_openapi_document_leads_somewhere(fake: Running) -> None:
    document = (await fake.client.get("/openapi.json")).json()
    references = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))
    assert any(reference.startswith("paths/") for reference in references)
    for reference in references:
        found = document
        for step in reference.split("/"):
            found = found[step.replace("~1", "/")]


async def test_the_examples_of_the_openapi_document_are_answered(fake: Running) -> None:
    document = (await fake.client.get("/openapi.json")).json()
    asked = 0
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        for example in content.get("application/json", {}).get("schema", {}).get("examples", []):
            body = json.dumps(example).replace("https://example.com/chart.png", data_url(png()))
            response = await fake.client.post(path, content=body, headers={"content-type": "application/json"})
            assert '"error":' not in response.raise_for_status().text
            asked += 1
    assert asked >= 3


async def test_openapi_documents_both_forms(fake: Running) -> None:
    document = (await fake.client.get("/openapi.json")).json()
    content = document["paths"]["/v1/vqa"]["post"]["requestBody"]["content"]
    assert content.keys() == {"application/json", "multipart/form-data"}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["question", "image", "adapter", "temperature", "max_tokens", "x"]), inner, max_size=5
            )
        ),
        max_leaves=8,
    )
)
async def test_any_json_ends_in_a_typed_answer(fake: Running, body: Any) -> None:
    response = await fake.client.post("/v1/vqa", content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code in (200, 400, 404, 415, 422)
    assert response.status_code == 200 or response.json()["error"]["code"]
