"""A mixture of modalities is one version of two LoRAs: published, proven, routed, swapped and rolled back as one."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
from pydantic import ValidationError

from loadtest.store.replica import Replica, running
from loadtest.store.stores import Maker
from service.adapters.base import Base
from service.adapters.manifest import FILE, Manifest
from service.adapters.modules import CONFIG, WEIGHTS
from service.adapters.proof import Proof
from service.adapters.store import Store
from service.engine.fake import FakeEngine, sign
from service.errors import AdapterNotFound
from service.images import Preparation, picture
from service.members import MEMBERS, MIXTURE, members
from service.metrics import Affinity
from service.prompt import Prompt
from service.settings import Settings
from service.types import Adapter, Query
from tests.conftest import ADAPTERS, CHECKPOINT, png, serving
from tests.test_http_edge import data_url


@pytest.fixture(scope="module")
def proof(prompt: Prompt) -> Proof:
    return Proof.for_checkpoint(CHECKPOINT, Base.of_checkpoint(CHECKPOINT), prompt, max_rank=64)


@pytest.fixture(scope="module")
def maker(proof: Proof) -> Maker:
    return Maker(Store(ADAPTERS).stable("digits"), proof)


@pytest.fixture(params=["directory", "memory://"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    root = tmp_path / "store" if request.param == "directory" else f"memory://{tmp_path.name}"
    return Store(root, tmp_path / "cache")


@pytest.fixture
async def replica(store: Store, proof: Proof) -> AsyncGenerator[Replica, None]:
    async with running(store, proof) as one:
        yield one


async def mixture(maker: Maker, label: str, folder: Path) -> dict[str, bytes]:
    """A version's files whose probes the fake engine answers as recorded."""
    parts = {member: await maker.make(f"{label}-{member}") for member in MEMBERS}
    files = {f"{member}/{name}": parts[member][name] for member in MEMBERS for name in (CONFIG, WEIGHTS)}
    files[CONFIG] = json.dumps({"peft_type": MIXTURE, "members": MEMBERS}).encode()
    for name, content in files.items():
        (folder / label / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / label / name).write_bytes(content)
    adapter, manifest = Adapter("made", label, folder / label), Manifest.model_validate_json(parts["text"][FILE])
    await maker.engine.start()
    await maker.engine.load(adapter)
    probes = []
    for image in (None, base64.b64encode(png()).decode()):
        probe = manifest.probes[0].model_copy(update={"image_png": image})
        base, adapted = [await maker.proof.answer(maker.engine, probe, who) for who in (None, adapter)]
        probes.append(probe.model_copy(update={"base_answer": base, "adapter_answer": adapted}))
    return files | {FILE: manifest.model_copy(update={"format": 2, "probes": tuple(probes)}).model_dump_json().encode()}


async def answered(replica: Replica, reference: str, pictures: int) -> str:
    """The mark of the weights that answered."""
    shown = tuple(picture(png(), Preparation.of_checkpoint(CHECKPOINT)) for _ in range(pictures))
    with replica.residency.lease(reference, bool(pictures), None) as lease:
        async with lease.loaded() as adapter:
            query = Query(f"{reference}-{pictures}", (1, 2, 3), shown, adapter)
            async with aclosing(replica.engine.generate(query)) as deltas:
                return "".join([delta.text async for delta in deltas]).split()[0]


async def test_each_member_answers_its_own_questions(
    store: Store, replica: Replica, maker: Maker, tmp_path: Path
) -> None:
    files = await mixture(maker, "m", tmp_path)
    adapter = store.publish("m", files)
    assert adapter.path.is_dir()
    assert set(members(adapter.path)) == set(MEMBERS)
    await replica.residency.reconcile()
    for pictures, member in ((0, "text"), (1, "image"), (2, "image")):
        assert await answered(replica, "m", pictures) == sign(files[f"{member}/{WEIGHTS}"])
    assert replica.residency.status(adapter).reason is None


async def test_a_router_is_told_that_a_mixture_takes_two_places(
    store: Store, replica: Replica, maker: Maker, tmp_path: Path
) -> None:
    store.publish("m", await mixture(maker, "m", tmp_path))
    for name in ("a", "b"):
        store.publish(name, await maker.make(name))
    await replica.residency.reconcile()
    found = []
    replica.residency.affinity = affinity = Affinity(max_loras=3)
    for name in ("a", "m", "b"):
        await answered(replica, name, pictures=1)
        (family,) = affinity.collect()
        labels = family.samples[0].labels
        found.append((labels["running_lora_adapters"], labels["max_lora"]))
    # Of three places a takes one and m two, so that two names fit; b then takes that of a.
    assert found == [("a", "3"), ("a,m", "2"), ("b,m", "2")]


async def test_a_change_in_a_member_is_another_version(store: Store, maker: Maker, tmp_path: Path) -> None:
    files = await mixture(maker, "m", tmp_path)
    one = store.publish("m", files)
    other = store.publish("m", files | {f"text/{WEIGHTS}": (await maker.make("other"))[WEIGHTS]})
    assert one.version != other.version
    store.catalog()
    store.fetch(one)
    before = store.stamp(one)
    if isinstance(store.root, Path):
        (one.path / "text" / WEIGHTS).write_bytes(b"changed")
        assert store.stamp(one) != before
        with pytest.raises(Exception, match="not what was published"):
            store.verify(one)


async def test_a_canary_of_a_mixture_over_a_plain_adapter_and_the_way_back(
    store: Store, replica: Replica, maker: Maker, tmp_path: Path
) -> None:
    mixed = store.publish("a", await mixture(maker, "m", tmp_path))
    plain = store.publish("a", await maker.make("plain"))
    await replica.residency.reconcile()
    await replica.releases.point("a", "canary", mixed.version, 0.5)
    marks = {(await replica.ask("a", str(number)))[0] for number in range(40)}
    assert marks == {plain, mixed}
    await replica.releases.point("a", "stable", "canary", None)
    await replica.releases.drop_alias("a", "canary")
    assert (await replica.ask("a"))[0] == mixed
    await replica.releases.roll_back("a", "stable")
    assert (await replica.ask("a"))[0] == plain


async def test_a_mixture_takes_two_places_and_many_at_once_end(
    store: Store, proof: Proof, maker: Maker, tmp_path: Path
) -> None:
    for name in ("m", "n"):
        store.publish(name, await mixture(maker, name, tmp_path))
    for name in "abc":
        store.publish(name, await maker.make(name))
    async with running(store, proof, capacity=3) as replica:
        for name in "mabncmnabcnm":
            await replica.ask(name)
            assert isinstance(replica.engine, FakeEngine)
            assert sum(map(len, replica.engine._weights.values())) <= 3
        assert replica.engine.most == 3
        await asyncio.wait_for(asyncio.gather(*(replica.ask(name) for name in "mnabcmnabc" * 3)), 30)
        assert replica.engine.most == 3
        loaded = replica.residency.reconciler.loaded()
        places = sum(len(members(adapter.path)) for adapter in loaded)
        assert replica.residency.reconciler.free_places == 3 - places


async def test_an_engine_of_one_place_says_that_a_mixture_takes_two(
    store: Store, proof: Proof, maker: Maker, tmp_path: Path
) -> None:
    store.publish("m", await mixture(maker, "m", tmp_path))
    async with running(store, proof, capacity=1) as replica:
        with pytest.raises(AdapterNotFound, match="takes 2 places in the engine, which has 1: raise VQA_MAX_CPU_LORAS"):
            await replica.ask("m")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({f"text/{WEIGHTS}": None}, "files"),
        ({f"text/{WEIGHTS}": b"no tensors"}, "files"),
        ({"format": 1}, "manifest"),
    ],
)
async def test_what_is_wrong_with_a_member_refuses_the_whole_version(
    store: Store, replica: Replica, maker: Maker, tmp_path: Path, change: dict[str, bytes | int | None], reason: str
) -> None:
    files = await mixture(maker, "m", tmp_path)
    for name, content in change.items():
        if name == "format":
            manifest = Manifest.model_validate_json(files[FILE]).model_copy(update={"format": content})
            files[FILE] = manifest.model_dump_json().encode()
        elif isinstance(content, bytes):
            files[name] = content
        else:
            del files[name]
    adapter = store.publish("m", files)
    await replica.residency.reconcile()
    with pytest.raises(AdapterNotFound):
        await replica.ask("m")
    assert replica.residency.status(adapter).reason == reason


async def test_a_mixture_s_manifest_has_probes_for_both_members(maker: Maker, tmp_path: Path) -> None:
    manifest = Manifest.model_validate_json((await mixture(maker, "m", tmp_path))[FILE])
    said = manifest.model_dump() | {"probes": manifest.model_dump()["probes"][:1]}
    with pytest.raises(ValidationError, match="with a picture and without one"):
        Manifest.model_validate(said)


async def test_over_http_a_history_with_a_picture_is_answered_by_the_image_member_and_counted(
    maker: Maker, tmp_path: Path
) -> None:
    files = await mixture(maker, "m", tmp_path / "made")
    Store(tmp_path / "store").publish("m", files)
    async with serving(Settings(adapters=tmp_path / "store"), FakeEngine()) as service:
        shown = {"type": "image_url", "image_url": {"url": data_url(png())}}
        talk = [
            {"role": "user", "content": [shown, {"type": "text", "text": "what is it?"}]},
            {"role": "assistant", "content": "red"},
            {"role": "user", "content": "and now?"},
        ]
        for said, member in ((talk, "image"), (talk[2:], "text")):
            body = {"model": "m", "messages": said}
            answer = (await service.client.post("/v1/chat/completions", json=body)).json()
            assert answer["choices"][0]["message"]["content"].split()[0] == sign(files[f"{member}/{WEIGHTS}"])
        told = (await service.client.get("/metrics")).text
        for member in MEMBERS:
            assert f'vqa_member_requests_total{{adapter="m",member="{member}",outcome="ok"}} 1.0' in told
