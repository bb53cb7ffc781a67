"""Cases of adapters and their store that were met in the wild, each as what was done and what is right."""

import asyncio
import re
import shutil
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from loadtest.store.replica import Replica, running
from loadtest.store.stores import Maker, files_of
from service.adapters.base import Base
from service.adapters.bucket import Bucket
from service.adapters.own import Own
from service.adapters.proof import Proof
from service.adapters.store import Store
from service.engine.fake import FakeEngine
from service.errors import AdapterNotFound, StoreUnavailable
from service.prompt import Prompt
from service.settings import Settings
from tests.conftest import ADAPTERS, CHECKPOINT, Running, serving
from tests.test_http_edge import ask, assert_error

JUNK = (".DS_Store", ".nfs0000000012345", "Thumbs.db", "@eaDir", ".ipynb_checkpoints")


@pytest.fixture
def store(fake_adapters: Path, tmp_path: Path) -> Store:
    shutil.copytree(fake_adapters, tmp_path / "store")
    return Store(tmp_path / "store", tmp_path / "own")


@pytest.fixture
async def own(store: Store, tmp_path: Path) -> AsyncGenerator[Running, None]:
    """A service over a store that tests may hurt."""
    settings = Settings(adapters=store.root, adapters_poll_s=0.02, adapters_cache=tmp_path / "cache", max_cpu_loras=1)
    async with serving(settings, FakeEngine()) as running:
        yield running


async def listed(running: Running) -> dict[str, Any]:
    body: dict[str, Any] = (await running.client.get("/v1/adapters")).raise_for_status().json()
    return body


async def metric(running: Running, name: str) -> float:
    text = (await running.client.get("/metrics")).text
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(name)))


async def eventually(happens: Callable[[], Any]) -> None:
    """Return once an awaitable comes out true."""
    async with asyncio.timeout(20):
        while not await happens():  # noqa: ASYNC110 - it is asked over HTTP
            await asyncio.sleep(0.02)


def moved(root: Path) -> None:
    """Nothing is there any more."""


def empty(root: Path) -> None:
    root.mkdir()


def dangling(root: Path) -> None:
    root.symlink_to(root.with_name("nowhere"))


def a_file(root: Path) -> None:
    root.write_text("not a directory")


def take_away(root: Path, instead: Callable[[Path], None]) -> None:
    root.rename(root.with_suffix(".gone"))
    instead(root)


def clear(root: Path) -> None:
    if root.is_symlink() or root.is_file():
        root.unlink()
    elif root.is_dir():
        root.rmdir()


def bring_back(root: Path) -> None:
    clear(root)
    root.with_suffix(".gone").rename(root)


@pytest.mark.parametrize("instead", [moved, empty, dangling, a_file])
async def test_case_27_a_store_that_vanishes_changes_nothing_of_what_serves(
    own: Running, store: Store, caplog: pytest.LogCaptureFixture, instead: Callable[[Path], None]
) -> None:
    root = Path(store.root)
    (await ask(own, adapter="digits")).raise_for_status()
    take_away(root, instead)

    async def told() -> bool:
        return await metric(own, "vqa_adapter_store_up ") == 0

    await eventually(told)
    (await ask(own, adapter="digits")).raise_for_status()
    assert (await own.client.get("/readyz")).status_code == 200
    assert [adapter["name"] for adapter in (await listed(own))["adapters"]] == ["digits", "shapes"]
    lines = [record.getMessage() for record in caplog.records if "what serves goes on serving" in record.getMessage()]
    assert len(lines) == 1
    # A version that is not at hand is a condition, told as one, and cured by the store's return.
    assert_error(await ask(own, adapter="shapes"), 503, "store_unavailable")
    bring_back(root)

    async def answered() -> bool:
        return (await ask(own, adapter="shapes")).is_success

    await eventually(answered)
    assert await metric(own, "vqa_adapter_store_up ") == 1


@pytest.mark.parametrize("instead", [moved, dangling, a_file])
async def test_case_27_without_a_store_the_base_serves_it_is_said_and_the_store_is_tried_again(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, instead: Callable[[Path], None]
) -> None:
    root = tmp_path / "later"
    instead(root)
    settings = Settings(adapters=str(root), adapters_poll_s=0.02, adapters_cache=tmp_path / "cache")
    async with serving(settings, FakeEngine()) as running:
        (await ask(running)).raise_for_status()
        assert any(f"the adapter store {root} cannot be read" in record.getMessage() for record in caplog.records)
        clear(root)
        shutil.copytree(store.root, root)

        async def answered() -> bool:
            return (await ask(running, adapter="digits")).is_success

        await eventually(answered)


async def test_case_27_an_empty_store_is_said_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Settings(adapters=str(tmp_path), adapters_cache=tmp_path / ".own"), FakeEngine()):
        assert any("is empty: the base serves alone" in record.getMessage() for record in caplog.records)


async def test_case_28_one_unreadable_version_fails_alone(own: Running, store: Store) -> None:
    root = Path(store.root)
    broken = store.publish("broken", files_of(store.stable("digits")) | {"adapter_config.json": b'{"use_dora": true}'})

    async def refused() -> bool:
        return (await ask(own, adapter="broken")).status_code == 404

    await eventually(refused)
    shutil.rmtree(broken.path)
    broken.path.symlink_to(broken.path)
    shutil.copytree(root / "digits", root / "newone")

    async def answered() -> bool:
        return (await ask(own, adapter="newone")).is_success

    await eventually(answered)
    shutil.rmtree(root / "newone")

    async def gone() -> bool:
        return (await ask(own, adapter="newone")).status_code == 404

    await eventually(gone)


@pytest.mark.parametrize("kind", ["adapter", "versions", "version", "files", "mount"])
async def test_case_29_links_are_followed(own: Running, store: Store, tmp_path: Path, kind: str) -> None:
    root, adapter, elsewhere = Path(store.root), store.stable("digits"), tmp_path / "elsewhere"
    shutil.copytree(root / "digits", elsewhere / "linked")
    (linked := root / "linked").mkdir()
    if kind == "adapter":
        linked.rmdir()
        linked.symlink_to(elsewhere / "linked")
    elif kind == "mount":  # as Kubernetes mounts what it may swap
        (elsewhere / "linked").rename(linked / "..2026")
        (linked / "..data").symlink_to("..2026")
        (linked / "versions").symlink_to("..data/versions")
        (linked / "aliases.json").symlink_to("..data/aliases.json")
    elif kind == "versions":
        (linked / "versions").symlink_to(elsewhere / "linked/versions")
    else:
        (inside := linked / "versions" / adapter.version).parent.mkdir()
        if kind == "version":
            inside.symlink_to(elsewhere / "linked/versions" / adapter.version)
        else:
            inside.mkdir()
            for file in (elsewhere / "linked/versions" / adapter.version).iterdir():
                (inside / file.name).symlink_to(file)
    if not (linked / "aliases.json").exists():
        shutil.copy(root / "digits/aliases.json", linked)

    async def answered() -> bool:
        return (await ask(own, adapter="linked")).is_success

    await eventually(answered)
    (await ask(own, adapter=f"linked@{adapter.version[:12]}")).raise_for_status()


async def test_case_29_what_is_no_adapter_is_named_once_and_listed(
    own: Running, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    root, version = Path(store.root), store.stable("digits").path
    shutil.copytree(root / "digits", root / "Upper-Case")
    shutil.copytree(version, root / "flat")
    shutil.copytree(version, root / "acme" / "nested")
    shutil.copytree(root / "digits", root / "noalias")
    (root / "noalias/aliases.json").unlink()
    for junk in JUNK:
        (root / junk).mkdir()

    async def seen() -> bool:
        return len((await listed(own))["refused"]) == 4

    await eventually(seen)
    await asyncio.sleep(0.2)
    refused = {entry["name"]: (entry["reason"], entry["message"]) for entry in (await listed(own))["refused"]}
    assert {name: reason for name, (reason, _) in refused.items()} == {
        "Upper-Case": "name",
        "flat": "layout",
        "acme": "layout",
        "noalias": "layout",
    }
    assert "python -m trainer publish" in refused["flat"][1]
    assert '{"stable": "' in refused["noalias"][1]
    for name in refused:
        told = [record for record in caplog.records if record.getMessage().startswith(f"adapter {name} (")]
        assert len(told) == 1


@pytest.mark.parametrize("junk", JUNK)
async def test_case_30_what_systems_leave_in_a_version_is_no_part_of_it(own: Running, store: Store, junk: str) -> None:
    path = store.stable("digits").path
    (await ask(own, adapter="digits")).raise_for_status()
    (path / junk).mkdir() if junk.startswith(("@", ".ipynb")) else (path / junk).write_bytes(b"\0\0\0\1Bud1")
    (await ask(own, adapter="shapes")).raise_for_status()  # takes the one place
    (await ask(own, adapter="digits")).raise_for_status()
    (path / "adapter_model.bin").write_bytes(b"\x80\x04.")  # what somebody meant still counts
    (await ask(own, adapter="shapes")).raise_for_status()
    assert_error(await ask(own, adapter="digits"), 404, "adapter_not_found")


class Console(MemoryFileSystem):  # type: ignore[misc]
    """Lists folders that a console made as S3 does: empty keys that end in a slash."""

    folders: tuple[str, ...] = ()

    def find(self, path: str, **options: Any) -> Any:
        found = super().find(path, **options)
        if not options.get("detail"):
            return found
        empty = {"type": "file", "size": 0, "ETag": '"d41d8"'}
        marks = {f"{path}/{folder}/": empty for folder in self.folders}
        return found | {path + "/": empty} | marks


def test_case_31_folders_that_a_console_made_are_no_files(store: Store, tmp_path: Path) -> None:
    adapter = store.stable("digits")
    fs, folder = Console(), f"hand/versions/{adapter.version}"
    root = f"/console-{tmp_path.name}"
    for name, content in files_of(adapter).items():
        fs.pipe_file(f"{root}/{folder}/{name}", content)
    fs.pipe_file(f"{root}/{folder}/.DS_Store", b"x")
    fs.pipe_file(f"{root}/hand/aliases.json", b"{}")
    fs.folders = ("hand", "hand/versions", folder)
    bucket = Bucket(fs, root, own := Own(tmp_path / "cache", root, 10**9))
    seen = bucket.look()
    assert seen.keys() == {"hand"}
    assert seen["hand"].versions == {adapter.version}
    fs.folders = ()
    bucket.fetch(folder)
    assert {file.name for file in bucket.local_path(folder).iterdir()} == files_of(adapter).keys()
    fs.rm(root, recursive=True)
    own.close()


async def test_case_32_an_adapter_named_as_the_base_is_refused_by_name(own: Running, store: Store) -> None:
    store.publish("tiny-llava-int4", files_of(store.stable("digits")))

    async def told() -> bool:
        return bool((await listed(own))["refused"])

    await eventually(told)
    (entry,) = (await listed(own))["refused"]
    assert (entry["name"], entry["reason"]) == ("tiny-llava-int4", "name")
    models = [model["id"] for model in (await own.client.get("/v1/models")).json()["data"]]
    assert models.count("tiny-llava-int4") == 1
    assert (await ask(own, adapter="tiny-llava-int4")).raise_for_status().json()["adapter"] is None
    detail = await own.client.get("/v1/adapters/tiny-llava-int4")
    assert "base's own name" in assert_error(detail, 404, "adapter_not_found")


async def test_case_36_lora_requests_info_is_one_sample_of_plain_names(fake_adapters: Path, tmp_path: Path) -> None:
    engine = FakeEngine(step_s=0.002)
    settings = Settings(adapters=str(fake_adapters), adapters_cache=tmp_path / "cache", max_loras=1)
    async with serving(settings, engine) as running:
        for number in range(12):
            await asyncio.gather(*(ask(running, adapter=name) for name in ("digits", "shapes")[: 1 + number % 2]))
        version = Store(fake_adapters).stable("digits").version
        (await ask(running, adapter=f"digits@{version}")).raise_for_status()
        (await ask(running, adapter="digits@stable")).raise_for_status()
        text = (await running.client.get("/metrics")).text
    (line,) = re.findall(r"^vllm:lora_requests_info\{.*$", text, re.MULTILINE)
    assert 'max_lora="1"' in line
    assert 'running_lora_adapters="digits@stable"' in line or 'running_lora_adapters="digits,digits@stable"' in line
    assert 'waiting_lora_adapters=""' in line
    assert version[:8] not in line


@pytest.fixture(scope="module")
def proof(prompt: Prompt) -> Proof:
    return Proof.for_checkpoint(CHECKPOINT, Base.of_checkpoint(CHECKPOINT), prompt, max_rank=64)


async def test_case_27_a_store_moved_away_and_back_under_load_loses_no_answer(tmp_path: Path, proof: Proof) -> None:
    """`make bench-store` does the same on the whole service."""
    maker = Maker(Store(ADAPTERS).stable("digits"), proof)
    store = Store(tmp_path / "store", tmp_path / "own")
    for name in "abcd":
        store.publish(name, await maker.make(name))
    async with running(store, proof, capacity=4) as replica:
        for name in "abcd":
            await replica.ask(name)
        following = asyncio.create_task(replica.residency.follow(0.005))
        asking = asyncio.create_task(_ask_on(replica, 400))
        for _ in range(3):
            (tmp_path / "store").rename(tmp_path / "away")
            await asyncio.sleep(0.1)
            with pytest.raises(StoreUnavailable):
                await replica.residency.refresh()
            (tmp_path / "away").rename(tmp_path / "store")
            await asyncio.sleep(0.1)
        assert await asking == 400
        following.cancel()
        with pytest.raises(AdapterNotFound):
            await replica.ask("nobody")


async def _ask_on(replica: Replica, count: int) -> int:
    right = 0
    for number in range(count):
        name = "abcd"[number % 4]
        right += (await replica.ask(name))[0].name == name
        await asyncio.sleep(0.001)
    return right
