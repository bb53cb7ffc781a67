"""The store's layout, atomicity and aliases, in a directory and behind a URL alike."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.adapters.aliases import CANARY, STABLE, Alias, Aliases
from service.adapters.routing import Catalog, Router, Shelf, route
from service.adapters.store import Store, digest
from service.errors import AdapterNotFound, AdapterRefused, StoreUnavailable

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


def card(text: str) -> dict[str, bytes]:
    return FILES | {"README.md": text.encode()}


@pytest.fixture(params=["directory", "file://", "memory://"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    where = {"directory": str(tmp_path / "store"), "file://": f"file://{tmp_path}/store"}
    yield Store(where.get(request.param, "memory://store"), tmp_path / "cache")
    memory = fsspec.filesystem("memory")
    if memory.exists("/store"):
        memory.rm("/store", recursive=True)


def write(store: Store, path: str, content: bytes) -> None:
    """Change a file behind the store's back."""
    with fsspec.open(f"{store.root}/{path}", "wb") as file:
        file.write(content)


def test_what_is_published_is_found_whole(store: Store) -> None:
    adapter = store.publish("digits", card("one"))
    assert adapter.version == digest(card("one"))
    assert store.names() == ["digits"]
    assert store.stable("digits") == adapter
    assert {file.name: file.read_bytes() for file in adapter.path.iterdir()} == card("one")


def test_only_a_store_elsewhere_is_copied(store: Store, tmp_path: Path) -> None:
    adapter = store.publish("digits", FILES)
    copied = str(store.root).startswith("memory://")
    assert adapter.path.is_relative_to(tmp_path / "cache") is copied
    store.release(adapter)
    assert adapter.path.is_dir() is not copied
    store.fetch(adapter)
    assert adapter.path.is_dir()


def test_a_copy_cut_short_is_fetched_again_and_a_changed_original_is_refused(store: Store) -> None:
    adapter = store.publish("digits", FILES)
    if str(store.root).startswith("memory://"):
        (adapter.path / "adapter_model.safetensors").write_bytes(b"half")
        store.fetch(adapter)
        store.release(adapter)
    store.catalog()  # a URL's stamps are those of the last look
    before = store.stamp(adapter)
    write(store, f"digits/versions/{adapter.version}/adapter_model.safetensors", b"others")
    store.catalog()
    assert store.stamp(adapter) != before
    with pytest.raises(AdapterRefused) as refused:
        store.fetch(adapter)
    assert refused.value.reason == "corrupt"


def test_a_version_that_is_not_there_yet_is_a_condition(store: Store) -> None:
    store.publish("digits", FILES)
    with pytest.raises(StoreUnavailable):
        store.fetch(store.at("digits", "0" * 64))


def test_publishing_again_keeps_the_way_back(store: Store) -> None:
    first, second = (store.publish("digits", card(text)).version for text in ("one", "two"))
    store.publish("digits", card("two"))
    assert json.loads(fsspec.open(f"{store.root}/digits/aliases.json").open().read())[STABLE] == second
    store.change("digits", lambda aliases: aliases.roll_back(STABLE))
    assert store.stable("digits").version == first
    assert store.catalog().shelves["digits"].versions == {first, second}
    with pytest.raises(AdapterRefused, match="no version before"):
        store.change("digits", lambda aliases: aliases.roll_back(STABLE))


def test_a_version_may_be_published_as_canary_and_the_first_one_is_stable(store: Store) -> None:
    first = store.publish("digits", {"adapter_config.json": b"1"}, canary=0.2).version
    second = store.publish("digits", {"adapter_config.json": b"2"}, canary=0.2).version
    named = store.catalog().shelves["digits"].aliases.named
    assert {alias: (to.version, to.weight) for alias, to in named.items()} == {
        STABLE: (first, 0.0),
        CANARY: (second, 0.2),
    }


def test_a_deleted_adapter_is_gone_at_once_and_its_files_when_freed(store: Store) -> None:
    adapter = store.publish("digits", FILES)
    store.delete("digits")
    assert store.names() == []
    store.fetch(adapter)
    store.free("digits")
    store.release(adapter)
    with pytest.raises(StoreUnavailable):
        store.fetch(adapter)


def test_an_adapter_published_again_after_its_deletion_is_not_freed(store: Store) -> None:
    store.publish("digits", FILES)
    store.delete("digits")
    adapter = store.publish("digits", FILES)
    store.free("digits")
    assert store.stable("digits") == adapter


def test_versions_that_nothing_names_are_collected_in_two_steps_and_never_those_that_something_does(
    store: Store,
) -> None:
    one, two, three, four = (store.publish("digits", card(text)).version for text in ("1", "2", "3", "4"))
    store.change("digits", lambda old: old.point("canary", one))
    nothing, second = frozenset[str](), frozenset({two})
    store.catalog()
    assert store.collect("digits", 1, 100, 1000) == (second, nothing)  # stable is 4, and was 3 before; canary is 1
    assert store.catalog().shelves["digits"].versions == {one, three, four}
    assert store.collect("digits", 1, 100, 1050) == (second, nothing)
    store.change("digits", lambda old: old.point("next", two))
    store.catalog()
    assert store.collect("digits", 1, 100, 1200) == (nothing, nothing)
    store.change("digits", lambda old: old.without("next"))
    store.catalog()
    assert store.collect("digits", 1, 100, 1300) == (second, nothing)
    assert store.collect("digits", 1, 100, 1400) == (nothing, second)
    shelf = store.catalog().shelves["digits"]
    assert shelf.versions == {one, three, four}
    assert shelf.aliases.previous["stable"] == (one, three)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"stable": "../../etc"}', b'{"stable": 7}', b'{"../x": "' + b"0" * 64 + b'"}', b"\xff"]
)
def test_aliases_that_cannot_be_read_are_a_fault_of_that_adapter_alone(store: Store, text: bytes) -> None:
    for name in ("digits", "shapes"):
        store.publish(name, FILES)
    write(store, "digits/aliases.json", text)
    catalog = store.catalog()
    assert catalog.names() == ["shapes"]
    assert catalog.faults.keys() == {"digits"}


def test_a_router_is_listed_beside_adapters(store: Store) -> None:
    store.publish("shapes", FILES)
    (Path(str(store.root).removeprefix("file://")) / "any").mkdir() if "memory" not in str(store.root) else None
    write(store, "any/router.json", b'{"image": "shapes"}')
    assert store.names() == ["any", "shapes"]


def test_a_version_half_written_is_not_there(store: Store) -> None:
    """As an upload that died leaves it: its PEFT configuration comes last."""
    store.publish("digits", FILES)
    folder = f"digits/versions/{'0' * 64}"
    with fsspec.open(f"{store.root}/{folder}/manifest.json", "wb", auto_mkdir=True) as file:
        file.write(b"{}")
    assert len(store.catalog().shelves["digits"].versions) == 1


@pytest.mark.parametrize("step", ["mkdir", "open", "chmod", "rename", "replace"])
def test_a_publish_killed_at_any_step_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = Store(tmp_path)
    old = store.publish("digits", card("one"))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, step, die)
    for name in ("digits", "new"):
        with pytest.raises(KeyboardInterrupt):
            Store(tmp_path).publish(name, card("two"))
    monkeypatch.undo()
    assert store.names() == ["digits"]
    assert store.stable("digits") == old
    store.publish("digits", card("two"))
    assert store.stable("digits").version == digest(card("two"))


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=Store(tmp_path).publish, args=("digits", card(str(number)))) for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shelf = Store(tmp_path).catalog().shelves["digits"]
    assert len(shelf.versions) == 12
    assert {*shelf.aliases.previous[STABLE], shelf.aliases.named[STABLE].version} == shelf.versions


VERSIONS = st.sampled_from([character * 64 for character in "0123abcd"])
NAMES = st.sampled_from([STABLE, "canary", "next", "a-1"])
STEPS: st.SearchStrategy[Callable[[Aliases], Aliases]] = st.one_of(
    st.builds(
        lambda name, version, weight: lambda old: old.point(name, version, weight),
        NAMES,
        VERSIONS,
        st.floats(0, 1),
    ),
    st.builds(lambda name: lambda old: old.without(name), NAMES),
    st.builds(lambda name: lambda old: old.roll_back(name) if old.previous.get(name) else old, NAMES),
)


@given(st.lists(STEPS, max_size=12))
def test_aliases_survive_being_written(steps: list[Callable[[Aliases], Aliases]]) -> None:
    aliases = Aliases()
    for step in steps:
        aliases = step(aliases)
        assert Aliases.parse(aliases.dump()) == aliases


@given(VERSIONS, VERSIONS)
def test_rolling_back_undoes_pointing(first: str, second: str) -> None:
    there = Aliases().point(STABLE, first)
    moved = there.point(STABLE, second)
    assert first == second or moved.roll_back(STABLE).named == there.named


OLD, NEW = "a" * 64, "abababab" + "c" * 56


def catalog(weight: float = 0.0) -> Catalog:
    aliases = Aliases(named={STABLE: Alias(version=OLD), "canary": Alias(version=NEW, weight=weight)})
    router = Router(image="digits@canary")
    return Catalog({"digits": Shelf(aliases, frozenset({OLD, NEW}))}, {"any": router})


@pytest.mark.parametrize(
    ("reference", "version"),
    [
        ("digits", OLD),
        ("digits@stable", OLD),
        ("digits@canary", NEW),
        (f"digits@{NEW}", NEW),
        ("digits@abababab", NEW),
        ("any", NEW),
    ],
)
def test_a_reference_means_one_version(reference: str, version: str) -> None:
    assert route(catalog(), reference, True, None)[:2] == ("digits", version)


@pytest.mark.parametrize(
    "reference",
    ["", "nope", "digits@", "digits@nope", "digits@ababab", f"digits@{NEW}0", "nope@stable", "@stable", "any@canary"],
)
def test_a_reference_that_means_nothing_is_not_found(reference: str) -> None:
    with pytest.raises(AdapterNotFound):
        route(catalog(), reference, True, None)


def test_a_front_of_two_versions_is_too_short() -> None:
    versions = frozenset({"a" * 63 + "b", "a" * 63 + "c"})
    shelves = {"digits": Shelf(Aliases(named={STABLE: Alias(version="a" * 63 + "b")}), versions)}
    with pytest.raises(AdapterNotFound, match="2 versions"):
        route(Catalog(shelves), "digits@aaaaaaaa", True, None)


def test_a_router_never_falls_back_to_the_base() -> None:
    with pytest.raises(AdapterNotFound, match="text"):
        route(catalog(), "any", False, None)


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_key_keeps_its_side_and_a_greater_share_moves_no_one_back(key: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    at_low, again, at_high = (route(catalog(weight), "digits", True, key)[1] for weight in (low, low, high))
    assert at_low == again
    assert at_low == OLD or at_high == NEW


@pytest.mark.parametrize("key", [str, lambda _: None], ids=["keys", "chance"])
def test_a_share_is_about_what_it_says(key: Callable[[int], str | None]) -> None:
    answered = [route(catalog(0.2), "digits", True, key(number))[1] for number in range(4000)]
    assert 0.16 < answered.count(NEW) / 4000 < 0.24
    assert {route(catalog(1.0), "digits", True, key(number))[1] for number in range(50)} == {NEW}
