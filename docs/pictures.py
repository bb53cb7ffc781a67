"""The pictures of docs/how-to/page.md: a service on the embedded model is started, asked, and its page photographed.

    make pictures

In docs/page they are wide and light; `--narrow`, `--dark` and another `--folder` are for looking at the page.
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from loadtest.process import serving
from loadtest.store.stores import files_of
from service.adapters.store import Store
from tests.test_page_browser import Tab, browsing

EXAMPLES = Path("service/page/files/examples")
QUESTION = "which digit is this?"
# The page looks at /metrics every two seconds: so long until its live figures are there.
FIGURES_S = 5


@contextmanager
def served(folder: Path, port: int) -> Iterator[str]:
    """A service that keeps questions, over a copy of the embedded adapters in `folder`; yields its address.

    `digits` has a second version in it as a canary: the same weights with another card.
    """
    shutil.copytree("models/adapters", folder / "adapters")
    store = Store(folder / "adapters")
    again = files_of(store.stable("digits")) | {"README.md": b"the same, published again"}
    store.publish("digits", again, canary=0.2)
    kept = ["--capture", str(folder / "kept"), "--adapters-cache", str(folder / "cache")]
    with serving("service", port, "--adapters", str(store.root), *kept, stderr=subprocess.DEVNULL) as url:
        yield url


def ask(url: str) -> None:
    """Ask both versions of `digits` 40 questions and judge the answers: every tenth of stable's is said to be wrong."""
    with httpx.Client(base_url=url, timeout=120) as client:
        for alias in ("stable", "canary"):
            for number in range(40):
                image = (EXAMPLES / ("seven.png" if number % 2 else "two.png")).read_bytes()
                fields = {"question": QUESTION, "adapter": f"digits@{alias}"}
                said = client.post("/v1/vqa", data=fields, files={"image": image}).raise_for_status().json()
                right = said["answer"] if alias == "canary" or number % 10 else "another"
                client.post("/v1/feedback", json={"id": said["id"], "answer": right}).raise_for_status()


async def take(url: str, folder: Path, size: str, scheme: str) -> None:
    """Write ask.png, compare.png, adapters.png and review.png into `folder`."""
    async with browsing(url) as open_tab:
        tab = await open_tab(size, scheme)
        await tab.example(3)
        await tab.page.fill("#questions", QUESTION)
        await tab.ask(2)
        await _photograph(tab, folder / "ask.png")
        await tab.page.click("nav a[href='#compare']")
        await tab.page.click("text=Add a third")
        for number, reference in enumerate(("digits", "shapes", "")):
            await tab.page.fill(f"#compare-{number}", reference)
            await tab.page.keyboard.press("Tab")
        await tab.page.fill("#questions", f"{QUESTION}\nwhat number is written here?\nwhat color is the shape?")
        await tab.ask(9)
        await _photograph(tab, folder / "compare.png")
        await tab.page.click("nav a[href='#adapters']")
        await tab.page.click("button.opener:has-text('digits')")
        await tab.page.wait_for_selector(".online .stats >> nth=1")
        await _photograph(tab, folder / "adapters.png")
        await tab.page.click("nav a[href='#review']")
        await tab.page.wait_for_selector(".card")
        await _photograph(tab, folder / "review.png")


async def _photograph(tab: Tab, file: Path) -> None:
    await tab.page.evaluate("document.activeElement.blur()")
    await asyncio.sleep(FIGURES_S)
    await tab.page.screenshot(path=str(file), full_page=True)


def main() -> int:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("docs/page"), help="where the pictures go [docs/page]")
    parser.add_argument("--port", type=int, default=8500, help="port of the service [8500]")
    parser.add_argument("--narrow", action="store_true", help="320 pixels wide, not 1280")
    parser.add_argument("--dark", action="store_true", help="in the dark colours")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), options.port) as url:
        ask(url)
        size, scheme = "narrow" if options.narrow else "wide", "dark" if options.dark else "light"
        asyncio.run(take(url, options.folder, size, scheme))
    return 0


if __name__ == "__main__":
    sys.exit(main())
