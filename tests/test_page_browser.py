"""The page in Chromium, against the whole service on the real engine: `make test-page` sets up what this needs.

axe-core judges every state of every view that a test here stops at, in light and dark, at 1,280 and 320 pixels.
"""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from loadtest.store.stores import files_of
from service.adapters.store import Store
from service.app import create_app
from service.engine.fake import FakeEngine
from service.settings import Settings
from tests.conftest import ADAPTERS, CHECKPOINT, ROOT, Running, listening, png
from tests.test_auth import ENTRIES, write
from tests.test_http_edge import data_url
from trainer.__main__ import main

pytestmark = [pytest.mark.slow, pytest.mark.engine]
AXE = ROOT / "build/page/node_modules/axe-core/axe.min.js"
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
SECOND = 1000.0  # milliseconds, in which Playwright counts
SIZES = {"wide": (1280, 900), "narrow": (320, 640)}


@dataclass
class Tab:
    """One browser tab: Playwright's page, and what went wrong in it or was loaded from elsewhere."""

    page: Any
    root: str
    faults: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Note what goes wrong, and what is asked of another host, from now on."""

        def hear(line: Any) -> None:
            if line.type == "error":
                self.faults.append(line.text)

        def see(asked: Any) -> None:
            if not asked.url.startswith((self.root, "data:", "blob:")):
                self.faults.append(asked.url)

        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", hear)
        self.page.on("request", see)

    async def judge(self, what: str) -> None:
        """Neither axe-core nor the browser finds anything, and nothing is wider than the screen."""
        await self.page.evaluate(f"{AXE.read_text()};0")
        found = (await self.page.evaluate("axe.run(document, {resultTypes: ['violations']})"))["violations"]
        told = [f"{each['id']}: {[node['target'] for node in each['nodes']]}" for each in found]
        assert not told, f"{what}: {told}"
        wide = await self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{what}: {wide} pixels wider than the screen"
        assert not self.faults, f"{what}: {self.faults}"

    async def example(self, number: int) -> None:
        """Choose one of the six examples, counted from 1."""
        await self.page.click(f"button.example:nth-child({number})")
        await self.page.wait_for_selector(f"button.example:nth-child({number})[aria-pressed=true]")

    async def ask(self, answers: int) -> list[str]:
        """Press Ask, and wait for so many complete answers: their texts."""
        await self.page.click("button.main")
        await self.page.wait_for_selector("button.main:not(:disabled)")
        await self.page.wait_for_function(
            "count => document.querySelectorAll('.answer[aria-busy=false]').length === count", arg=answers
        )
        return [await each.inner_text() for each in await self.page.query_selector_all(".answer p.said")]


Opened = Callable[..., Awaitable[Tab]]


@asynccontextmanager
async def browsing(root: str) -> AsyncGenerator[Opened, None]:
    """What opens tabs of Chromium at a service's page."""
    from playwright.async_api import async_playwright

    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    assert found, f"no Chromium: install one of {CHROMIUMS}, or name it in the variable CHROMIUM"
    assert AXE.is_file(), "axe-core is not installed: run make test-page"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])

        async def open_tab(size: str = "wide", scheme: str = "light", view: str = "", **options: Any) -> Tab:
            width, height = SIZES[size]
            context = await browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce", **options
            )
            tab = Tab(await context.new_page(), root.rstrip("/") + "/")
            tab.page.set_default_timeout(30 * SECOND)
            tab.watch()
            await tab.page.goto(tab.root + view)
            await tab.page.wait_for_selector(".base, .banner, details.route")
            return tab

        yield open_tab
        await browser.close()


@dataclass(frozen=True)
class World:
    """A service on vLLM that keeps questions, whose store may be changed, and a browser that looks at its page."""

    service: Running
    kept: Path
    store: Path
    open_tab: Opened

    def corrections(self) -> list[dict[str, Any]]:
        files = self.kept.glob("*/corrections-*.jsonl")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World, None]:
    from service.engine.vllm import VLLMEngine

    kept, store = tmp_path_factory.mktemp("kept"), tmp_path_factory.mktemp("store")
    shutil.copytree(ADAPTERS, store, dirs_exist_ok=True)
    settings = Settings(
        model=str(CHECKPOINT),
        adapters=store,
        adapters_cache=tmp_path_factory.mktemp("cache"),  # so that what an earlier run refused is not known
        port=0,
        capture=kept,
        engine_canary_deadline_s=300,
        adapters_poll_s=0.5,
    )
    engine = VLLMEngine(CHECKPOINT, settings)
    app = create_app(settings, CHECKPOINT, engine)
    async with listening(app, engine) as running, browsing(str(running.client.base_url)) as open_tab:
        yield World(running, kept, store, open_tab)


# Ask


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
async def test_the_ask_view_is_accessible_in_every_state(world: World, size: str, scheme: str) -> None:
    tab = await world.open_tab(size, scheme)
    await tab.judge("empty")
    await tab.page.click("#adapter")
    await tab.page.wait_for_selector("[role=option]")
    await tab.judge("the list of adapters")
    await tab.page.keyboard.press("Escape")
    await tab.example(1)
    await tab.page.click("summary")
    await tab.page.fill("#choices", "yes\nno\nyellow")
    await tab.ask(6)
    await tab.judge("answers with choices")
    await tab.page.click(".verdict button:has-text('Wrong') >> nth=0")
    await tab.judge("the field for the right answer")
    await tab.page.click("text=as code >> nth=0")
    await tab.judge("the code")
    await tab.page.keyboard.press("Escape")
    await tab.page.click("button[aria-label='Keyboard shortcuts']")
    await tab.judge("the sheet of keys")
    await tab.page.context.close()


async def test_a_picture_of_ones_own_is_uploaded_and_the_answer_streams(world: World, tmp_path: Path) -> None:
    tab = await world.open_tab()
    (tmp_path / "disc.png").write_bytes(png("blue"))
    await tab.page.set_input_files("#file", tmp_path / "disc.png")
    await tab.page.wait_for_selector("img.preview")
    await tab.page.fill("#questions", "describe the picture.")
    await tab.page.evaluate(
        """() => { window.seen = [];
        new MutationObserver(() => { const said = document.querySelector('p.said.coming');
          if (said) seen.push(said.textContent); })
          .observe(document.body, {subtree: true, childList: true, characterData: true}); }"""
    )
    (text,) = await tab.ask(1)
    seen = await tab.page.evaluate("seen")
    growing = {piece for piece in seen if piece and piece != text}
    assert growing, f"{text!r} came at once: {seen}"
    assert all(text.startswith(piece) for piece in growing)
    assert "blue" in text
    assert not tab.faults
    await tab.page.context.close()


@pytest.mark.parametrize("event", ["drop", "paste"])
async def test_a_picture_is_dropped_or_pasted(world: World, event: str) -> None:
    tab = await world.open_tab()
    await tab.page.evaluate(
        """([event, url]) => fetch(url).then(found => found.blob()).then(blob => {
          const held = new DataTransfer();
          held.items.add(new File([blob], "disc.png", {type: "image/png"}));
          const kinds = {drop: [DragEvent, {dataTransfer: held}], paste: [ClipboardEvent, {clipboardData: held}]};
          const [Kind, fields] = kinds[event];
          document.body.dispatchEvent(new Kind(event, {...fields, bubbles: true, cancelable: true}));
        })""",
        [event, "page/examples/square.png"],
    )
    await tab.page.wait_for_selector("img.preview")
    await tab.page.fill("#questions", "what color is the shape?")
    assert await tab.ask(1) == ["green"]
    assert not tab.faults
    await tab.page.context.close()


async def test_several_questions_are_one_batch_and_differences_from_the_base_are_marked(world: World) -> None:
    tab = await world.open_tab()
    asked: list[tuple[str, str]] = []
    tab.page.on("request", lambda request: asked.append((request.method, request.url.removeprefix(tab.root))))
    await tab.example(3)
    assert await tab.page.input_value("#adapter") == "digits"
    await tab.page.fill("#questions", "which digit is this?\nread the handwritten digit.\n\nwhich digit is this?")
    answers = await tab.ask(4)
    assert answers[::2] == ["7", "7"]
    assert [path for method, path in asked if method == "POST"] == ["v1/vqa/batch"]
    differing = [beside != "7" for beside in answers[1::2]]
    marks = [await each.query_selector(".mark") is not None for each in await tab.page.query_selector_all(".result")]
    assert marks == differing
    assert any(differing)
    version = (await world.service.client.get("/v1/adapters/digits")).json()["aliases"]["stable"]["version"]
    assert await tab.page.inner_text(".answer .version >> nth=0") == version[:8]
    await tab.page.context.close()


async def test_answers_about_the_picture_before_say_so(world: World) -> None:
    tab = await world.open_tab()
    await tab.example(3)
    await tab.ask(2)
    assert await tab.page.query_selector(".about") is None
    await tab.example(1)
    assert await tab.page.inner_text(".about") == "These answers are about the picture before: seven.png."
    await tab.judge("answers about the picture before")
    await tab.page.click("text=as code >> nth=0")
    assert "seven.png" in await tab.page.inner_text("dialog pre >> nth=0")
    await tab.page.keyboard.press("Escape")
    await tab.ask(6)
    assert await tab.page.query_selector(".about") is None
    await tab.page.context.close()


async def test_choices_and_none_of_them_are_all_of_the_probability(world: World) -> None:
    tab = await world.open_tab()
    await tab.example(4)
    await tab.page.fill("#questions", "which digit is this?")
    await tab.page.click("summary")
    await tab.page.fill("#choices", "2\n7")
    await tab.ask(2)
    shares = await tab.page.eval_on_selector_all(
        ".answer >> nth=0 >> .choices [role=meter]", "all => all.map(each => Number(each.ariaValueNow))"
    )
    assert len(shares) == 3
    assert sum(shares) == pytest.approx(1, abs=0.002)
    assert shares[0] > 0.9
    await tab.page.context.close()


async def test_right_answers_are_kept_as_training_data(world: World) -> None:
    tab = await world.open_tab()
    await tab.example(3)
    await tab.page.fill("#questions", "which digit is this?")
    await tab.ask(2)
    before = len(world.corrections())
    await tab.page.click(".answer:nth-child(1) .verdict button:has-text('Right')")
    await tab.page.wait_for_selector(".answer:nth-child(1) .kept")
    await tab.page.click(".answer:nth-child(2) .verdict button:has-text('Wrong')")
    await tab.page.wait_for_selector("input[name=right]:focus")
    await tab.page.keyboard.type("7")
    await tab.page.keyboard.press("Enter")
    await tab.page.wait_for_selector(".answer:nth-child(2) .kept")
    right, wrong = world.corrections()[before:]
    assert (right["adapter"], right["answer"], right["said"]) == ("digits", "7", "7")
    assert (wrong.get("adapter"), wrong["answer"], wrong["said"]) == (None, "7", "2")
    await tab.page.context.close()


async def test_errors_say_what_to_do(world: World, tmp_path: Path) -> None:
    tab = await world.open_tab()
    await tab.page.click("button.main")
    assert "Write a question first" in await tab.page.inner_text("[role=alert]")
    await tab.page.fill("#questions", "what is it?")
    await tab.page.fill("#adapter", "nothere")
    await tab.page.keyboard.press("Tab")
    await tab.page.click("button.main")
    told = await tab.page.inner_text(".answer [role=alert]")
    assert "No adapter 'nothere'" in told
    assert "Choose an adapter from the list" in told
    (tmp_path / "half.png").write_bytes(png()[:-40])
    await tab.page.set_input_files("#file", tmp_path / "half.png")
    await tab.page.click("button.main")
    await tab.page.wait_for_function("() => document.body.innerText.includes('Choose another picture')")
    (tmp_path / "note.txt").write_text("no picture")
    await tab.page.set_input_files("#file", tmp_path / "note.txt")
    assert "choose a PNG" in await tab.page.inner_text(".picture [role=alert]")
    tab.faults.clear()  # the browser notes each status of 400 and more
    await tab.page.route("**/v1/vqa", lambda route: route.abort())
    await tab.page.click("button.main")
    await tab.page.wait_for_function("() => document.body.innerText.includes('Check that the service is running')")
    await tab.page.context.close()


async def test_everything_is_done_by_the_keyboard_alone(world: World) -> None:
    tab = await world.open_tab()
    press, typed = tab.page.keyboard.press, tab.page.keyboard.type
    await press("?")
    await tab.page.wait_for_selector("dialog[open]")
    await press("Escape")
    await tab.page.wait_for_selector("dialog", state="detached")
    await tab.page.focus("button.example:nth-child(4)")
    await press("Enter")
    await tab.page.wait_for_selector("img.preview")
    await press("a")
    await typed("digi")
    await press("ArrowDown")
    await press("Enter")
    assert await tab.page.input_value("#adapter") == "digits"
    await press("Tab")
    await press("Tab")
    assert await tab.page.evaluate("document.activeElement.id") == "questions"
    await press("Control+a")
    await typed("which digit is this? a q 1")  # letters in a field are letters
    await press("Control+a")
    await typed("which digit is this?")
    await press("Control+Enter")
    await tab.page.wait_for_selector(".answer[aria-busy=false] >> nth=1")
    await tab.page.wait_for_function("() => document.getElementById('live').textContent.includes('digits: 2,')")
    await tab.judge("asked by keyboard")
    await tab.page.context.close()


async def test_single_keys_can_be_switched_off(world: World) -> None:
    """As WCAG 2.1.4 asks."""
    tab = await world.open_tab()
    await tab.page.keyboard.press("?")
    await tab.page.click("dialog input[type=checkbox]")
    await tab.page.keyboard.press("Escape")
    await tab.page.wait_for_selector("dialog", state="detached")
    await tab.page.keyboard.press("?")
    await asyncio.sleep(0.3)
    assert await tab.page.query_selector("dialog") is None
    await tab.page.context.close()


async def test_what_is_asked_and_answered_is_text_and_never_markup(world: World) -> None:
    tab = await world.open_tab()
    hostile = "<img src=x onerror='window.hit=1'><b>which?</b>"
    await tab.page.fill("#questions", hostile)
    events = (
        "".join(f"data: {json.dumps(each)}\n\n" for each in ({"delta": hostile}, _said(hostile))) + "data: [DONE]\n\n"
    )
    await tab.page.route("**/v1/vqa", lambda route: route.fulfill(content_type="text/event-stream", body=events))
    (text,) = await tab.ask(1)
    assert text == hostile
    assert await tab.page.inner_text(".result h2") == hostile
    assert await tab.page.evaluate("window.hit") is None
    assert await tab.page.query_selector(".result b, .result img") is None
    await tab.page.context.close()


async def test_the_code_that_is_offered_runs_and_answers_the_same(world: World, tmp_path: Path) -> None:
    tab = await world.open_tab()
    await tab.example(3)
    shutil.copy(ROOT / "service/page/files/examples/seven.png", tmp_path)
    await tab.page.fill("#questions", "which digit is this?")
    await tab.ask(2)
    await tab.page.click("text=as code >> nth=0")
    curl, python, openai = await tab.page.eval_on_selector_all("pre", "all => all.map(each => each.textContent)")
    for command in (["bash", "-c", curl], [sys.executable, "-c", python], [sys.executable, "-c", openai]):
        process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=-1, stderr=-1)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, err.decode()
        said = out.decode().strip()
        assert (json.loads(said)["answer"] if said.startswith("{") else said) == "7"
    await tab.page.context.close()


# Compare


async def test_adapters_and_versions_are_compared_and_what_differs_is_marked(world: World) -> None:
    tab = await world.open_tab(view="#compare")
    await tab.example(3)
    version = (await world.service.client.get("/v1/adapters/digits")).json()["aliases"]["stable"]["version"]
    await tab.page.click("text=Add a third")
    for number, reference in enumerate(("digits", f"digits@{version[:8]}", "")):
        await tab.page.fill(f"#compare-{number}", reference)
        await tab.page.keyboard.press("Tab")
    await tab.page.fill("#questions", "which digit is this?\nwhat color is the digit?")
    answers = await tab.ask(6)
    assert answers[:3] == ["7", "7", "2"]
    assert [await mark.inner_text() for mark in await tab.page.query_selector_all(".result:nth-child(2) mark")] == ["2"]
    assert f"{1 + (len(set(answers[3:])) > 1)} of 2 questions answered differently" in await tab.page.inner_text(
        ".results"
    )
    await tab.page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
async def test_the_other_views_are_accessible(world: World, size: str, scheme: str) -> None:
    tab = await world.open_tab(size, scheme)
    await tab.example(3)
    await tab.ask(2)
    await tab.page.click("nav a[href='#compare']")
    await tab.page.wait_for_selector("#compare-1")
    await tab.page.fill("#compare-0", "digits")
    await tab.page.keyboard.press("Tab")
    await tab.ask(2)
    await tab.judge("compared")
    await tab.page.click("nav a[href='#adapters']")
    await tab.page.click(".opener >> nth=0")
    await tab.page.wait_for_selector(".detail")
    await tab.judge("an adapter, opened")
    await tab.page.click("nav a[href='#review']")
    await tab.page.wait_for_selector(".card")
    await tab.judge("an answer to review")
    await tab.page.keyboard.press("c")
    await tab.page.wait_for_selector("#right:focus")
    await tab.judge("an answer being corrected")
    await tab.page.context.close()


# Adapters


async def test_a_canary_is_shared_out_promoted_and_rolled_back(world: World) -> None:
    store = Store(world.store)
    first = store.stable("shapes").version
    files = files_of(store.stable("shapes")) | {"README.md": b"another card"}
    second = store.publish("shapes", files).version

    async def shown() -> dict[str, Any]:
        found: dict[str, Any] = (await world.service.client.get("/v1/adapters/shapes")).json()["aliases"]
        return {alias: (said["version"], said["weight"]) for alias, said in found.items()}

    tab = await world.open_tab(view="#adapters")
    await tab.page.click("button.opener:has-text('shapes')")
    await tab.page.wait_for_selector(f"text=Roll back to {first[:8]}")
    await tab.page.click(f"text=Roll back to {first[:8]}")
    await tab.judge("before a rollback")
    await tab.page.click("dialog button.main")
    await tab.page.wait_for_selector("text=There is no version before this one.")
    assert await shown() == {"stable": (first, 0.0)}
    await tab.page.select_option("#version-shapes", second)
    await tab.page.focus("#weight-shapes")
    await tab.page.keyboard.press("Home")
    for _ in range(3):
        await tab.page.keyboard.press("PageUp")
    await tab.page.click("text=Share out")
    await tab.page.wait_for_selector("text=Promote the canary")
    assert await shown() == {"canary": (second, 0.3), "stable": (first, 0.0)}
    await tab.page.wait_for_selector(".adapter:has-text('shapes') >> text=canary 30%")
    await tab.page.click("text=Promote the canary")
    await tab.page.wait_for_selector(f"text=Roll back to {first[:8]}")
    assert await shown() == {"stable": (second, 0.0)}
    assert not tab.faults
    await tab.page.context.close()


async def test_an_opened_row_tells_how_stable_and_canary_do_with_their_callers(world: World) -> None:
    store, client = Store(world.store), world.service.client
    first = store.stable("digits").version
    second = store.publish("digits", files_of(store.stable("digits")) | {"README.md": b"a canary"}).version
    for alias, version, share in (("stable", first, None), ("canary", second, 0.5)):
        change = {"alias": alias, "version": version} | ({"weight": share} if share else {})
        (await client.put("/v1/adapters/digits", json=change)).raise_for_status()
    image = data_url((ROOT / "service/page/files/examples/seven.png").read_bytes())
    for reference, right in (("digits@stable", True), ("digits@stable", False), ("digits@canary", True)):
        asked = {"question": "which digit is this?", "image": image, "adapter": reference}
        said = (await client.post("/v1/vqa", json=asked)).raise_for_status().json()
        feedback = {"id": said["id"], "answer": said["answer"] if right else "another"}
        (await client.post("/v1/feedback", json=feedback)).raise_for_status()
    told = {each["version"]: each for each in (await client.get("/v1/adapters/digits")).json()["versions"]}
    tab = await world.open_tab("narrow", view="#adapters")
    await tab.page.click("button.opener:has-text('digits')")
    await tab.page.wait_for_selector(".online .stats >> nth=1")
    stable, canary = [
        " ".join((await each.inner_text()).split()) for each in await tab.page.query_selector_all(".online > div")
    ]
    assert stable.startswith(
        f"stable {first[:8]} Found right 50.0% 9.5% to 90.5%, of 2 judged Answered 2 Failed 0 p50 "
    )
    assert canary.startswith(
        f"canary {second[:8]} Found right 100.0% 20.7% to 100.0%, of 1 judged Answered 1 Failed 0 p50"
    )
    milliseconds = round(1000 * told[second]["online"]["p95_s"])
    assert canary.endswith(f"p95 {milliseconds} ms")
    calibrated = {True: "calibrated", False: "as the model says it"}[told[first]["calibrated"]]
    assert f"Confidence {calibrated}" in " ".join((await tab.page.inner_text(".adapter:has-text('digits')")).split())
    await tab.judge("how two versions do")
    (await client.delete("/v1/adapters/digits?alias=canary")).raise_for_status()
    await tab.page.context.close()


async def test_scores_have_intervals_beside_the_base(world: World) -> None:
    tab = await world.open_tab(view="#adapters")
    (await world.service.client.post("/v1/vqa", json={"question": "?", "adapter": "digits"})).raise_for_status()
    await tab.page.wait_for_selector(".adapter:has-text('digits') .scale")
    text = await tab.page.inner_text(".adapter:has-text('digits') .score")
    assert " ".join(text.split()) == "91.6% 89.4% to 93.3% base 44.1%, 805 questions"
    await tab.page.context.close()


async def test_a_refused_adapter_is_shown_with_its_reason(world: World) -> None:
    files = files_of(Store(world.store).stable("digits"))
    config = json.loads(files["adapter_config.json"]) | {"use_dora": True}
    Store(world.store).publish("refused", files | {"adapter_config.json": json.dumps(config).encode()})
    tab = await world.open_tab(view="#adapters")
    await tab.page.wait_for_selector(".opener:has-text('refused')")
    await world.service.client.post("/v1/vqa", json={"question": "?", "adapter": "refused"})
    await tab.page.wait_for_selector(".refused >> text=use_dora")
    await tab.judge("with a refused adapter")
    await tab.page.context.close()


# Review


async def test_answers_are_reviewed_by_keys_and_downloaded_as_rows(world: World, tmp_path: Path) -> None:
    tab = await world.open_tab()
    await tab.example(4)
    await tab.page.fill("#questions", "which digit is this?\nwhat number is written here?\nread the handwritten digit.")
    await tab.ask(6)
    await tab.page.click("nav a[href='#review']")
    await tab.page.wait_for_selector(".card")
    before = len(world.corrections())
    for key in "scc":
        shown = await tab.page.get_attribute(".card", "data-id")
        await tab.page.keyboard.press(key)
        if key == "c":
            await tab.page.wait_for_selector("#right:focus")
            await tab.page.keyboard.type("2")
            await tab.page.keyboard.press("Enter")
        await tab.page.wait_for_function("old => document.querySelector('.card').dataset.id !== old", arg=shown)
    answer = await tab.page.inner_text(".card p.said")
    await tab.page.keyboard.press("a")
    await tab.page.wait_for_selector("text=3 done just now")
    kept = world.corrections()[before:]
    assert [row["answer"] for row in kept] == ["2", "2", answer]
    assert kept[2]["said"] == answer
    assert kept[0]["confidence"] <= kept[1]["confidence"] <= kept[2]["confidence"]
    async with tab.page.expect_download() as coming:
        await tab.page.click("text=Download as training rows")
    await (await coming.value).save_as(tmp_path / "rows.zip")
    shutil.unpack_archive(tmp_path / "rows.zip", tmp_path / "rows")
    data, images = tmp_path / "rows/rows.jsonl", tmp_path / "rows/images"
    assert {row["request"] for row in kept} <= {json.loads(line)["request"] for line in data.read_text().splitlines()}
    assert main(["data", "check", "--data", str(data), "--images", str(images)]) == 0
    await tab.page.context.close()


# All views


async def test_the_live_figures_follow_what_is_asked(world: World) -> None:
    tab = await world.open_tab()
    await tab.example(2)
    await tab.ask(4)
    await tab.page.wait_for_function("() => /\\d+ m?s/.test(document.querySelector('.figures dd').textContent)")
    await tab.page.wait_for_function("() => document.querySelector('.figures path').getAttribute('d').includes('L')")
    await tab.page.context.close()


async def test_a_key_is_asked_for_and_kept_in_memory_alone(fake_adapters: Path, tmp_path: Path) -> None:
    settings = Settings(adapters=fake_adapters, port=0, keys=write(tmp_path / "keys.json", ENTRIES))
    engine = FakeEngine()
    app = create_app(settings, CHECKPOINT, engine)
    async with listening(app, engine) as running, browsing(str(running.client.base_url)) as open_tab:
        tab = await open_tab()
        await tab.page.wait_for_selector(".banner")
        tab.faults.clear()  # 401
        await tab.judge("without a key")
        for key, told in (("nobody's", "does not know this key"), ("key of other", "")):
            await tab.page.click(".tools button >> nth=0")
            await tab.page.fill("#key", key)
            await tab.page.click("dialog button.main")
            await tab.page.wait_for_function(
                "told => (document.querySelector('.banner')?.innerText ?? '').includes(told)", arg=told
            )
        await tab.page.wait_for_selector(".banner", state="detached")
        assert await tab.page.inner_text(".tools button >> nth=0") == "Key: other"
        await tab.page.click("nav a[href='#adapters']")
        await tab.page.click(".opener >> nth=0")
        await tab.page.wait_for_selector("text=An admin's key can")
        assert await tab.page.query_selector(".levers") is None
        stored = await tab.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert "key of" not in stored
        await tab.page.reload()
        await tab.page.wait_for_selector(".banner")
        await tab.page.context.close()


def _said(text: str) -> dict[str, Any]:
    timing = dict.fromkeys(("image_s", "queue_s", "first_token_s", "total_s"), 0.1)
    return {"id": "vqa-1", "answer": text, "confidence": 0.5, "choices": None, "adapter": None} | {
        "finish_reason": "stop", "usage": {}, "timing": timing
    }  # fmt: skip


# The page at /docs


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
async def test_the_page_of_routes_names_every_route_and_is_accessible(world: World, size: str, scheme: str) -> None:
    tab = await world.open_tab(size, scheme, view="docs")
    told = await tab.page.eval_on_selector_all(
        "details.route > summary > code", "all => all.map(one => one.textContent)"
    )
    document = (await world.service.client.get("/openapi.json")).json()
    expected = [f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods]
    assert told == expected
    await tab.page.click("summary:has-text('POST /v1/vqa') >> nth=0")
    await tab.page.wait_for_selector("details[open] th:has-text('question')")
    await tab.judge("a route that is open")
    await tab.page.context.close()
