"""The documents hold together: links and anchors lead somewhere, pages made from code are as the code makes them."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from docs.reference import generate
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), DOCS / "llms.txt", ROOT / "models/README.md"])
# Of a Markdown link or picture its target, outside of code.
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_SNIPPET = re.compile(r'^--8<-- "([^"]+)"$', re.MULTILINE)


def text_of(page: Path) -> str:
    """A page with what it takes in from elsewhere."""
    return _SNIPPET.sub(lambda found: (ROOT / found[1]).read_text(), page.read_text())


def links(page: Path) -> Iterator[tuple[Path, str]]:
    for target in _LINK.findall(_CODE.sub("", text_of(page))):
        if not target.startswith(("http://", "https://", "mailto:")):
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


def anchors(page: Path) -> set[str]:
    """The anchors that MkDocs and GitHub both make of headings: letters, digits and hyphens."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), target
        if page.is_relative_to(DOCS):
            assert target.is_relative_to(DOCS), f"{target} is no page of the site: name it in backquotes"
        if anchor:
            assert anchor in anchors(target), f"{target} has no heading {anchor}"


def test_every_page_can_be_reached_from_the_first() -> None:
    """But for what the first says is reached by its own links: two steps are enough."""
    reached = {DOCS / "index.md"}
    for _ in range(2):
        reached |= {target for page in reached for target, _ in links(page) if target.suffix == ".md"}
    assert set(DOCS.rglob("*.md")) <= reached


def test_every_page_that_code_names_is_there() -> None:
    folders = ("manylens", "service", "trainer", "models", "loadtest", "deploy", "tests")
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        for name in re.findall(r"(?<![\w/])docs/[\w/-]+\.md", file.read_text()):
            assert (ROOT / name).is_file(), f"{file}: {name}"


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_page_made_from_the_code_is_as_the_code_makes_it(name: str) -> None:
    assert (generate.FOLDER / name).read_text() == generate.PAGES[name](), "run: python -m docs.reference.generate"


def test_every_alert_has_a_runbook_in_the_site() -> None:
    alerts = re.findall(r"^\s*- alert: (\w+)$", (ROOT / "deploy/observability/alerts.yaml").read_text(), re.MULTILINE)
    assert alerts
    assert {alert.removeprefix("Manylens").lower() for alert in alerts} <= anchors(DOCS / "how-to/alerts.md")


def test_no_document_names_a_place_of_one_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(work|root|opt/wheels)/", page.read_text()), page


def ready(base_url: str) -> bool:
    try:
        return httpx.get(f"{base_url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    """Its bash blocks, as they stand but for the port, from pictures to a correction in a training file."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (DOCS / "tutorial.md").read_text(), re.MULTILINE | re.DOTALL)
    draw, check, train, ask, correct, take = blocks
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bin_ = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}

    def run(block: str) -> str:
        script = block.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(draw)
    run(check)
    run(train)
    serve: list[str | Path] = [
        bin_ / "manylens",
        "serve",
        "--adapters",
        "adapters",
        "--capture",
        "captured",
        "--port",
        str(port),
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(serve, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 300
        while not ready(f"http://127.0.0.1:{port}"):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.5)
        assert json.loads(run(ask))["answer"] in set("123456")
        assert run(correct).strip() == "204"
        rows = [json.loads(line) for line in run(take).splitlines()]
        assert [row["answer"] for row in rows] == ["3"]
        assert (tmp_path / "kept" / "images" / rows[0]["image"]).is_file()
    finally:
        process.terminate()
        process.wait(60)
