"""The page at `/` as it is served: whole, small, from here alone, and under a policy that lets in nothing else.

What it does in a browser is in test_page_browser.py, which needs Chromium (make test-page).
"""

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from models import examples
from models.datasets import HELD_OUT, SEED
from service.engine.fake import FakeEngine
from service.page import FILES, POLICY, load
from service.settings import Settings
from tests.conftest import ROOT, Running, serving
from tests.test_auth import ENTRIES, bearer, write
from tests.test_http_edge import assert_error, data_url

NAMES = sorted(file.relative_to(FILES).as_posix() for file in FILES.rglob("*") if file.is_file())
SCRIPTS = [name for name in NAMES if name.endswith(".js")]
VENDOR = json.loads((FILES / "vendor/vendor.json").read_text())
# Bytes of all the files together, each as gzip sends it.
MOST = 60_000
# What is right of each example, for the first question that the page proposes.
RIGHT = {"triangle": "yellow", "square": "green", "seven": "7", "two": "2", "bars": "bar chart", "pie": "pie chart"}


def where(name: str) -> str:
    return {"index.html": "/", "docs.html": "/docs"}.get(name, f"/page/{name}")


async def test_every_file_is_served_with_its_type_and_the_policy(fake: Running) -> None:
    for name in NAMES:
        response = await fake.client.get(where(name))
        assert response.status_code == 200, name
        assert response.content == (FILES / name).read_bytes()
        assert response.headers["content-security-policy"] == POLICY
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-type"].split("/")[0] in ("text", "image", "application")
    assert (await fake.client.head("/")).status_code == 200
    assert_error(await fake.client.get("/page/../app.py"), 404, "http_error")


def test_the_policy_lets_in_nothing_from_elsewhere_and_no_text_as_code() -> None:
    assert "default-src 'self'" in POLICY
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
    assert "script-src" not in POLICY  # so that default-src holds for scripts


async def test_a_browser_that_has_a_file_is_told_so(fake: Running) -> None:
    first = await fake.client.get("/page/app.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in first.headers
    packed = await fake.client.get("/page/app.js", headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == first.content  # httpx unpacks it
    again = await fake.client.get("/page/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_all_of_it_weighs_less_than_60_kilobytes() -> None:
    weights = {
        name: min(len(gzip.compress(data, 9)), len(data)) for name in NAMES if (data := (FILES / name).read_bytes())
    }
    assert sum(weights.values()) < MOST, weights


async def test_the_page_needs_no_key_and_no_model(fake_adapters: Path, tmp_path: Path) -> None:
    keys = write(tmp_path / "keys.json", ENTRIES)
    async with serving(Settings(adapters=fake_adapters, keys=keys), FakeEngine()) as running:
        running.app.state.service.warm.clear()  # as while the model is loaded
        assert_error(await running.client.get("/v1/adapters", headers=bearer("ops")), 503, "engine_unavailable")
        for name in NAMES:
            assert (await running.client.get(where(name))).status_code == 200


@pytest.mark.parametrize("left", ["/vqa", ""])
async def test_below_a_prefix_addresses_begin_with_it(fake_adapters: Path, left: str) -> None:
    async with serving(Settings(adapters=fake_adapters, root_path="/vqa"), FakeEngine()) as running:
        assert '<base href="/vqa/">' in (await running.client.get(f"{left}/")).text
        assert (await running.client.get(f"{left}/page/app.js")).status_code == 200


def test_what_is_vendored_is_the_file_it_says_it_is_under_licences_that_allow_it() -> None:
    content = (FILES / "vendor" / VENDOR["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == VENDOR["sha256"]
    assert (VENDOR["package"], VENDOR["version"]) == ("htm", "3.1.1")
    assert VENDOR["licences"] == {"htm": "Apache-2.0", "preact": "MIT"}
    licences = (FILES / "vendor/licences.txt").read_text()
    for part in ("Apache License", "The MIT License (MIT)", "Jason Miller", "htm 3.1.1"):
        assert part in licences
    assert [name for name in NAMES if name.startswith("vendor/")] == [
        "vendor/htm-preact.js", "vendor/licences.txt", "vendor/vendor.json"
    ]  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_make_no_code_and_no_markup_of_text(name: str) -> None:
    text = (FILES / name).read_text()
    for forbidden in (r"\beval\(", r"new Function", r"outerHTML", r"insertAdjacentHTML", r"document\.write"):
        assert not re.search(forbidden, text), forbidden
    if not name.startswith("vendor/"):
        assert "innerHTML" not in text  # nor dangerouslySetInnerHTML, which the library only has for who asks for it
        assert not re.search(r"https?://", text)
        assert "sessionStorage" not in text


def test_every_file_that_another_names_is_there() -> None:
    pages = (FILES / "index.html").read_text() + (FILES / "docs.html").read_text()
    named = set(re.findall(r'(?:src|href)="page/([^"]+)"', pages))
    for name in SCRIPTS:
        folder = (FILES / name).parent
        imported = re.findall(r'from "(\./[^"]+)"', (FILES / name).read_text())
        named |= {(folder / other).resolve().relative_to(FILES.resolve()).as_posix() for other in imported}
    assert named <= set(NAMES)
    assert set(SCRIPTS) <= named
    assert load().keys() == {where(name) for name in NAMES}


# The example pictures


def test_examples_are_what_their_generator_makes_and_none_was_trained_on() -> None:
    said = json.loads((FILES / "examples/examples.json").read_text())
    assert [each["file"] for each in said] == [f"{each.name}.png" for each in examples.EXAMPLES]
    assert len(said) == 6
    _, held_out = train_test_split(
        range(len(load_digits().target)), test_size=HELD_OUT, random_state=SEED, stratify=load_digits().target
    )
    assert examples.SEED != 0  # the first part of every training scene's seed (models/stages.py)
    trained = "".join(path.read_text() for path in (ROOT / "models/adapters").glob("*/versions/*/images.txt"))
    for example, words in zip(examples.EXAMPLES, said, strict=True):
        file = FILES / "examples" / f"{example.name}.png"
        assert Image.open(file).convert("RGB").tobytes() == examples.picture(example).tobytes()
        assert (words["alt"], words["adapter"]) == (example.alt, example.adapter)
        assert example.kind != "digit" or example.number in held_out
        assert hashlib.sha256(file.read_bytes()).hexdigest()[:10] not in trained.split()


@pytest.mark.engine
@pytest.mark.parametrize("example", examples.EXAMPLES, ids=lambda each: each.name)
async def test_what_is_proposed_for_an_example_is_answered_right(real: Running, example: examples.Example) -> None:
    image = data_url((FILES / "examples" / f"{example.name}.png").read_bytes())
    body = {"image": image, "question": example.questions[0], "adapter": example.adapter}
    assert (await real.client.post("/v1/vqa", json=body)).json()["answer"] == RIGHT[example.name]


# GET /v1/me


async def test_a_key_tells_what_it_may(fake_adapters: Path, tmp_path: Path) -> None:
    keys = write(tmp_path / "keys.json", ENTRIES)
    async with serving(Settings(adapters=fake_adapters, keys=keys, capture=tmp_path), FakeEngine()) as running:
        assert_error(await running.client.get("/v1/me"), 401, "unauthorized")
        ops = (await running.client.get("/v1/me", headers=bearer("ops"))).json()
        assert ops.items() >= {"name": "ops", "keyed": True, "admin": True, "keeps": True, "rate": None}.items()
        acme = (await running.client.get("/v1/me", headers=bearer("acme"))).json()
        told = {"admin": False, "adapters": ["dig*"], "rate": "3/hour", "concurrency": 1}
        assert acme.items() >= told.items()


async def test_without_keys_an_admin_is_who_sits_at_this_machine(fake: Running) -> None:
    here = (await fake.client.get("/v1/me")).json()
    assert here.items() >= {"name": "", "keyed": False, "admin": True, "keeps": False}.items()
    relayed = (await fake.client.get("/v1/me", headers={"x-forwarded-for": "203.0.113.9"})).json()
    assert not relayed["admin"]
