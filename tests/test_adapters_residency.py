"""Versions come, go and are swapped while questions are answered: no answer from a wrong adapter, none lost."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadtest.store.replica import Replica, running
from loadtest.store.stores import Maker
from loadtest.store.swaps import Swaps, swap
from service.adapters.base import Base
from service.adapters.manifest import FILE, Manifest
from service.adapters.modules import WEIGHTS
from service.adapters.proof import Proof
from service.adapters.residency import Residency
from service.adapters.store import Store, digest
from service.engine import Engine
from service.engine.fake import FakeEngine
from service.errors import AdapterNotFound, AdapterRefused, AdapterUnavailable, InvalidRequest, StoreUnavailable
from service.metrics import Metrics
from service.prompt import Prompt
from service.schemas.adapters import AdaptersResponse, BaseOut, RefusedOut, VersionOut
from service.types import Adapter, Query
from service.workers import Workers
from tests.conftest import ADAPTERS, CHECKPOINT


@pytest.fixture(scope="module")
def proof(prompt: Prompt) -> Proof:
    return Proof.for_checkpoint(CHECKPOINT, Base.of_checkpoint(CHECKPOINT), prompt, max_rank=64)


@pytest.fixture(scope="module")
def maker(proof: Proof) -> Maker:
    return Maker(Store(ADAPTERS).stable("digits"), proof)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(tmp_path / "store", tmp_path / "cache")


@pytest.fixture
async def replica(store: Store, proof: Proof) -> AsyncGenerator[Replica, None]:
    async with running(store, proof) as one:
        yield one


def refused(replica: Replica) -> list[RefusedOut]:
    """What GET /v1/adapters says of what does not serve."""
    base = BaseOut(id="", precision="", digest="")
    return AdaptersResponse.page(base, replica.residency, lambda _: True, 1000, "").refused


async def hold(replica: Replica, reference: str) -> tuple[asyncio.Task[Adapter], Callable[[], None]]:
    """A request under way; it ends with the answer once told to."""
    go, started = asyncio.Event(), asyncio.Event()

    async def request() -> Adapter:
        with replica.residency.lease(reference) as lease:
            async with lease.loaded() as adapter:
                assert adapter is not None
                started.set()
                await go.wait()
                async with aclosing(replica.engine.generate(Query("held", (1,), (), adapter))) as deltas:
                    assert [delta async for delta in deltas]
                return adapter

    task = asyncio.create_task(request())
    await asyncio.wait_for(started.wait(), 5)
    return task, go.set


async def test_a_new_version_serves_and_the_old_one_finishes_what_it_began(
    store: Store, replica: Replica, maker: Maker
) -> None:
    old = store.publish("a", await maker.make("1"))
    await replica.residency.reconcile()
    request, finish = await hold(replica, "a")
    new = store.publish("a", await maker.make("2"))
    await replica.residency.reconcile()
    assert await replica.ask("a") == (new, maker.sign[new.version])
    await replica.residency.refresh()
    assert old in replica.residency.reconciler.loaded()
    finish()
    assert await request == old
    await replica.residency.refresh()
    assert replica.residency.reconciler.loaded() == {new}
    assert replica.metric("vqa_adapter_resident", adapter="a", version=new.version) == 1
    assert replica.metric("vqa_adapter_resident", adapter="a", version=old.version) == 0


async def test_a_refused_new_version_leaves_the_old_one_serving_and_says_why(
    store: Store, replica: Replica, maker: Maker
) -> None:
    old = store.publish("a", await maker.make("1"))
    await replica.residency.reconcile()
    wrong = await maker.make("2") | {WEIGHTS: (await maker.make("3"))[WEIGHTS]}  # answers its probes otherwise
    new = store.publish("a", wrong)
    for _ in range(3):
        await replica.residency.reconcile()
    assert (await replica.ask("a"))[0] == old
    (said,) = refused(replica)
    assert (said.name, said.version, said.reason) == ("a", new.version, "probe")
    assert said.retry_at is not None  # an engine may have had a bad moment
    assert replica.metric("vqa_adapter_failed_total", reason="probe") == 1
    with pytest.raises(AdapterUnavailable, match="its trainer saw") as failed:
        await replica.ask(f"a@{new.version[:8]}")
    assert failed.value.retry_after_s


async def test_an_answer_that_its_trainer_cut_short_is_asked_in_as_many_tokens(
    replica: Replica, store: Store, maker: Maker
) -> None:
    files = await maker.make("cut")
    manifest = Manifest.model_validate_json(files[FILE])
    (probe,) = manifest.probes
    words = probe.adapter_answer.split()
    assert len(words) > 1
    short = probe.model_copy(update={"adapter_answer": words[0], "tokens": 1})
    store.publish("a", files | {FILE: manifest.model_copy(update={"probes": (short,)}).model_dump_json().encode()})
    await replica.residency.reconcile()
    assert (await replica.ask("a"))[0].name == "a"


async def test_a_version_that_answers_as_the_base_does_is_refused(store: Store, proof: Proof, maker: Maker) -> None:
    class Deaf(FakeEngine):
        """Loads everything and applies nothing, as vLLM does with names it does not know."""

        def _words(self, query: Query) -> list[str]:
            return super()._words(Query(query.id, query.token_ids, query.pictures))

    store.publish("a", await maker.make("1"))
    deaf = Replica(store, proof)
    deaf.engine = Deaf()
    deaf.residency = Residency(store, deaf.engine, proof, Workers(2), Metrics(), 4)
    await deaf.engine.start()
    await deaf.residency.reconcile()
    with pytest.raises(AdapterUnavailable, match="as the base does"):
        await deaf.ask("a")
    assert [said.reason for said in refused(deaf)] == ["no_effect"]


async def test_a_refusal_stands_until_the_files_change(store: Store, replica: Replica, maker: Maker) -> None:
    adapter = store.publish("a", await maker.make("1"))
    kept = (adapter.path / WEIGHTS).read_bytes()
    (adapter.path / WEIGHTS).write_bytes(b"cut short")
    await replica.residency.reconcile()
    for _ in range(2):
        with pytest.raises(AdapterNotFound, match="not what was published"):
            await replica.ask("a")
        await replica.residency.reconcile()
    assert replica.metric("vqa_adapter_rejected_total", reason="corrupt") == 1
    (adapter.path / WEIGHTS).write_bytes(kept)
    await replica.residency.reconcile()
    assert (await replica.ask("a"))[0] == adapter
    assert refused(replica) == []


async def test_a_deleted_adapter_is_not_found_and_what_it_began_is_answered(
    store: Store, replica: Replica, maker: Maker
) -> None:
    adapter = store.publish("a", await maker.make("1"))
    await replica.residency.reconcile()
    request, finish = await hold(replica, "a")
    await replica.releases.delete("a")
    with pytest.raises(AdapterNotFound, match="no adapter 'a'"):
        await replica.ask("a")
    assert adapter.path.is_dir()
    finish()
    assert await request == adapter
    await replica.residency.refresh()
    assert not adapter.path.exists()
    assert not replica.residency.reconciler.loaded()


async def test_an_alias_moves_only_to_what_is_proven_and_goes_back(
    store: Store, replica: Replica, maker: Maker
) -> None:
    one, two = [store.publish("a", await maker.make(label)) for label in "12"]
    bad = store.publish("a", {name: text for name, text in (await maker.make("3")).items() if name != WEIGHTS})
    await replica.releases.point("a", "stable", two.version[:8], None)
    with pytest.raises(AdapterRefused):
        await replica.releases.point("a", "canary", bad.version, 0.5)
    with pytest.raises(InvalidRequest, match="stable"):
        await replica.releases.point("a", "stable", one.version, 0.5)
    await replica.releases.point("a", "canary", one.version, 0.25)
    assert (await replica.ask("a@canary"))[0] == one
    answered = [(await replica.ask("a", str(number)))[0] for number in range(100)]
    assert 10 < answered.count(one) < 45
    assert [(await replica.ask("a", str(number)))[0] for number in range(100)] == answered
    await replica.releases.point("a", "stable", "canary", None)
    await replica.releases.drop_alias("a", "canary")
    assert (await replica.ask("a"))[0] == one
    await replica.releases.roll_back("a", "stable")
    assert (await replica.ask("a"))[0] == two
    with pytest.raises(AdapterRefused):
        await replica.releases.roll_back("a", "stable")
    assert (await replica.ask("a"))[0] == two


async def test_any_version_can_be_asked_and_is_let_go_afterwards(store: Store, replica: Replica, maker: Maker) -> None:
    one, two = [store.publish("a", await maker.make(label)) for label in "12"]
    await replica.residency.reconcile()
    await replica.ask("a")
    assert replica.residency.reconciler.loaded() == {two}
    assert await replica.ask(f"a@{one.version[:10]}") == (one, maker.sign[one.version])
    await replica.residency.refresh()
    assert replica.residency.reconciler.loaded() == {two}


async def test_a_pinned_adapter_stays_loaded_and_pins_leave_room(store: Store, proof: Proof, maker: Maker) -> None:
    versions = {name: store.publish(name, await maker.make(name)) for name in "abcd"}
    async with running(store, proof, capacity=2) as replica:
        await replica.releases.pin("a", True)
        await replica.releases.prefetch("a")
        with pytest.raises(InvalidRequest, match="room for 1"):
            await replica.releases.pin("b", True)
        for name in "bcdbcd":
            await replica.ask(name)
            assert versions["a"] in replica.residency.reconciler.loaded()
        await replica.releases.pin("a", False)
        for name in "bcd":
            await replica.ask(name)
        assert versions["a"] not in replica.residency.reconciler.loaded()
        assert replica.engine.most <= 2


async def test_probes_are_asked_once_a_version(store: Store, proof: Proof, maker: Maker) -> None:
    asked: list[str] = []

    class Counting(Proof):
        async def ask(self, engine: Engine, adapter: Adapter, manifest: Manifest) -> None:
            asked.append(adapter.key)
            await super().ask(engine, adapter, manifest)

    for name in "abcdef":
        store.publish(name, await maker.make(name))
    counting = Counting(proof.base, proof.prompt, proof.preparation, proof.linears, proof.max_rank)
    async with running(store, counting, capacity=2) as replica:
        for name in "abcdefabcdef":
            await replica.ask(name)
        assert len(asked) == len(set(asked)) == 6
        assert replica.engine.loads > 6
        assert replica.engine.most == 2


async def test_a_busy_adapter_cannot_keep_another_out(store: Store, proof: Proof, maker: Maker) -> None:
    for name in "ab":
        store.publish(name, await maker.make(name))
    async with running(store, proof, capacity=1) as replica:
        replica.engine.step_s = 0.005
        stop = asyncio.Event()

        async def keep_asking() -> int:
            count = 0
            while not stop.is_set():
                await replica.ask("a")
                count += 1
            return count

        busy = [asyncio.create_task(keep_asking()) for _ in range(8)]
        await asyncio.sleep(0.05)
        await asyncio.wait_for(replica.ask("b"), 2)
        stop.set()
        assert all(await asyncio.gather(*busy))


async def test_a_caller_who_leaves_while_an_adapter_loads_takes_nothing_with_them(
    store: Store, proof: Proof, maker: Maker
) -> None:
    for name in "abc":
        store.publish(name, await maker.make(name))
    async with running(store, proof, capacity=1) as replica:
        replica.engine.step_s = 0.01
        for delay in (0, 0.005, 0.015, 0.03):
            leavers = [asyncio.create_task(replica.ask(name)) for name in "abcabc"]
            await asyncio.sleep(delay)
            for leaver in leavers:
                leaver.cancel()
            await asyncio.gather(*leavers, return_exceptions=True)
        for name in "abc":
            assert (await asyncio.wait_for(replica.ask(name), 5))[0].name == name


async def test_without_a_manifest_it_is_refused_unless_allowed_and_then_marked(
    store: Store, proof: Proof, maker: Maker
) -> None:
    made = await maker.make("1")
    plain = {name: text for name, text in made.items() if name != "manifest.json"}
    adapter = store.publish("plain", plain)
    store.publish("odd", plain | {WEIGHTS: b"not tensors"})
    async with running(store, proof) as strict:
        for name in ("plain", "odd"):
            with pytest.raises(AdapterNotFound, match=r"no manifest\.json"):
                await strict.ask(name)
        assert {said.reason for said in refused(strict)} == {"no_manifest"}
    lenient = Proof(proof.base, proof.prompt, proof.preparation, proof.linears, proof.max_rank, unproven=True)
    async with running(store, lenient) as replica:
        assert (await replica.ask("plain"))[1] == maker.sign[digest(made)]
        assert VersionOut.of(replica.residency, adapter).proof == "unproven"
        with pytest.raises(AdapterNotFound):
            await replica.ask("odd")
        assert [(said.name, said.reason) for said in refused(replica)] == [("odd", "files")]


async def test_replicas_over_one_store_converge(store: Store, proof: Proof, maker: Maker) -> None:
    first, second = store.publish("a", await maker.make("1")), await maker.make("2")
    async with running(store, proof) as left, running(Store(store.root), proof) as right:
        watching = [asyncio.create_task(one.residency.follow(0.05)) for one in (left, right)]

        async def agreed(version: str) -> None:
            while {(await one.ask("a"))[0].version for one in (left, right)} != {version}:  # noqa: ASYNC110 - two loops
                await asyncio.sleep(0.01)

        await asyncio.wait_for(agreed(first.version), 5)
        new = store.publish("a", second)
        await asyncio.wait_for(agreed(new.version), 5)
        await left.releases.roll_back("a", "stable")
        await asyncio.wait_for(agreed(first.version), 5)
        await right.releases.delete("a")
        with pytest.raises(AdapterNotFound):
            await asyncio.wait_for(agreed("none"), 5)
        for task in watching:
            task.cancel()


async def test_what_one_replica_deletes_another_can_still_finish(store: Store, proof: Proof, maker: Maker) -> None:
    adapter = store.publish("a", await maker.make("1"))
    store.publish("b", await maker.make("2"))
    async with running(store, proof, 1, grace_s=0.5) as left, running(Store(store.root), proof, 1) as right:
        with right.residency.lease("a") as lease:
            await right.ask("b")  # takes the one slot
            await left.releases.delete("a")
            async with lease.loaded():
                assert right.residency.reconciler.loaded() == {adapter}
        await asyncio.sleep(0.5)
        await left.residency.refresh()
        assert not adapter.path.exists()
    assert os.listdir(store.root) == ["b"]  # noqa: PTH208 - the names are the point


@pytest.mark.parametrize("text", ['{"r": 8, "rank_pattern": {"x": "y"}}', '{"r": 8, "rank_pattern": 7}', "[" * 9999])
async def test_a_file_made_to_hurt_keeps_no_other_adapter_out(
    store: Store, replica: Replica, maker: Maker, text: str
) -> None:
    store.publish("a", await maker.make("1") | {"adapter_config.json": text.encode()})
    store.publish("b", await maker.make("2"))
    await replica.residency.reconcile()
    with pytest.raises(AdapterNotFound):
        await replica.ask("a")
    assert [(said.name, said.reason) for said in refused(replica)] == [("a", "files")]
    assert (await replica.ask("b"))[0].name == "b"


async def test_a_store_that_fails_changes_nothing_of_what_serves(
    store: Store, replica: Replica, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = store.publish("a", await maker.make("1"))
    await replica.residency.reconcile()

    def fail() -> None:
        raise StoreUnavailable("no route")

    monkeypatch.setattr(store, "catalog", fail)
    watching = asyncio.create_task(replica.residency.follow(0.01))
    await asyncio.sleep(0.05)
    assert not watching.done()
    assert (await replica.ask("a"))[0] == adapter
    monkeypatch.undo()
    store.publish("b", await maker.make("2"))
    await asyncio.sleep(0.3)
    assert (await replica.ask("b"))[0].name == "b"
    watching.cancel()


async def test_a_store_behind_a_url_serves_and_frees_its_copies(proof: Proof, maker: Maker, tmp_path: Path) -> None:
    store = Store("memory://served", tmp_path / "cache")
    old = store.publish("a", await maker.make("1"))
    async with running(store, proof) as replica:
        assert await replica.ask("a") == (old, maker.sign[old.version])
        request, finish = await hold(replica, "a")
        new = store.publish("a", await maker.make("2"))
        await replica.residency.reconcile()
        assert (await replica.ask("a"))[0] == new
        assert old.path.is_dir()
        finish()
        await request
        await replica.residency.refresh()
        assert not old.path.exists()
        assert new.path.is_dir()
        await replica.releases.delete("a")
        assert not new.path.exists()


NAMES = "abc"
STEPS = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(NAMES), st.sampled_from("1234")),
    st.tuples(st.just("break"), st.sampled_from(NAMES), st.sampled_from("12")),
    st.tuples(st.sampled_from(["delete", "roll_back", "ask", "canary", "pin"]), st.sampled_from(NAMES), st.just("")),
    st.tuples(st.sampled_from(["refresh", "settle", "pause"]), st.just(""), st.just("")),
)


class Story:
    """A store changed and asked in any order; `asked` are requests that may still be under way."""

    def __init__(self, store: Store, replica: Replica, maker: Maker) -> None:
        self.store, self.replica, self.maker = store, replica, maker
        self.asked: list[tuple[str, bool, asyncio.Task[tuple[Adapter, str]]]] = []
        self.ever: dict[str, set[str]] = {name: set() for name in NAMES}
        self.deleted: set[str] = set()
        self.broken: set[str] = set()

    async def step(self, what: str, name: str, label: str) -> None:
        releases, refusals = self.replica.releases, (AdapterNotFound, AdapterRefused, InvalidRequest)
        simple: dict[str, Callable[[], Awaitable[object]]] = {
            "delete": lambda: releases.delete(name),
            "roll_back": lambda: releases.roll_back(name, "stable"),
            "canary": lambda: releases.point(name, "canary", "stable", 0.5),
            "pin": lambda: releases.pin(name, True),
            "refresh": self.replica.residency.refresh,
            "settle": self.replica.residency.reconcile,
            "pause": lambda: asyncio.sleep(0.002),
        }
        if what == "publish":
            self.ever[name].add(self.store.publish(name, await self.maker.make(f"{name}{label}")).version)
        elif what == "break":
            self.broken.add(name)
            self.store.publish(name, await self.maker.make(f"{name}{label}") | {WEIGHTS: label.encode()})
        elif what == "ask":
            served = name in self.replica.residency.served.names()
            self.asked += [(name, served, asyncio.create_task(self.replica.ask(name))) for _ in range(4)]
            await asyncio.sleep(0)
        else:
            self.deleted |= {name} if what == "delete" else set()
            with suppress(*refusals):
                await simple[what]()

    async def check(self) -> None:
        for name, served, task in self.asked:
            try:
                adapter, mark = await asyncio.wait_for(task, 10)
            except AdapterNotFound:
                assert not served or name in self.deleted | self.broken
            else:
                assert adapter.name == name
                assert adapter.version in self.ever[name]
                assert mark == self.maker.sign[adapter.version]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=5, max_size=20))
async def test_any_order_of_changes_and_questions_gives_right_answers(
    proof: Proof, maker: Maker, steps: list[tuple[str, str, str]]
) -> None:
    with TemporaryDirectory() as directory:
        store = Store(directory)
        async with running(store, proof, capacity=2) as replica:
            story = Story(store, replica, maker)
            for step in steps:
                await story.step(*step)
            await story.check()
            await replica.residency.reconcile()
            for name in replica.residency.served.names():
                with suppress(*([AdapterNotFound] if name in story.broken else [])):
                    adapter, mark = await replica.ask(name)
                    assert mark == maker.sign[adapter.version]
            assert replica.engine.most <= 2


async def test_a_thousand_questions_to_24_adapters_in_4_slots_while_they_are_swapped_and_deleted(
    store: Store, proof: Proof, maker: Maker
) -> None:
    """The small case of `make bench-swaps`."""
    swapped = await swap(store, proof, maker, Swaps(requests=1000, versions=2))
    assert swapped.ends.keys() == {"right", "gone"}
    assert swapped.ends.total() == 1000
    assert swapped.ends["right"] > 800
    assert swapped.most == 4
    assert swapped.last == {name: digest(await maker.make(f"{name}.2")) for name in swapped.last}
    left = {f"a{number}" for number in range(24) if number % 6}
    assert set(os.listdir(store.root)) == left  # noqa: PTH208 - the names are the point
