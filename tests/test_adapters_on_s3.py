"""A store on a real S3 API: what a look costs, folders that consoles make, uploads out of order, a bucket that goes.

`make test-s3`: it needs the extra `s3` (s3fs, and moto's server).
"""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from loadtest.store.manystore import copy_here
from loadtest.store.objects import BUCKET, Objects, objects
from service.adapters.store import Store, digest
from service.errors import StoreUnavailable
from service.types import Adapter
from tests.conftest import ADAPTERS

pytest.importorskip("moto", reason="make test-s3 installs it")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def bucket() -> Iterator[Objects]:
    with objects() as server:
        fsspec.filesystem("s3").clear_instance_cache()
        yield server


@pytest.fixture
def source(tmp_path: Path) -> Adapter:
    return copy_here(ADAPTERS, "digits", tmp_path)


@pytest.fixture
def store(bucket: Objects, tmp_path: Path) -> Store:
    return Store(f"s3://{BUCKET}/adapters", tmp_path / "cache")


@pytest.mark.parametrize("count", [1, 300])
def test_a_look_at_an_unchanged_store_is_a_page_of_listing_each_thousand_keys(
    bucket: Objects, source: Adapter, store: Store, count: int
) -> None:
    bucket.fill(source, count)
    first = store.catalog()
    assert len(first.shelves) == count
    bucket.counted()
    assert store.catalog() is first
    pages = -(-len(bucket.keys) // 1000)
    assert sum(bucket.counted().values()) == pages
    bucket.put("adapters/a00000/aliases.json", b'{"stable": "' + b"0" * 64 + b'"}')
    assert store.catalog() is not first
    assert sum(bucket.counted().values()) == pages + 1  # the one file that changed


def test_only_what_is_asked_for_is_fetched_and_is_whole(bucket: Objects, source: Adapter, store: Store) -> None:
    bucket.fill(source, 3)
    adapter = store.stable("a00001")
    store.fetch(adapter)
    assert [copy.name for copy in store.own.copies().iterdir()] == ["a00001"]


def test_folders_that_a_console_made_and_hidden_files_are_no_part(
    bucket: Objects, source: Adapter, store: Store
) -> None:
    files = {file.name: file.read_bytes() for file in source.path.iterdir()}
    version, folder = digest(files), "adapters/hand/versions"
    for key in ("adapters/", "adapters/hand/", f"{folder}/", f"{folder}/{version}/", f"{folder}/{version}/.DS_Store"):
        bucket.put(key, b"" if key.endswith("/") else b"x")
    for name, content in files.items():
        bucket.put(f"{folder}/{version}/{name}", content)
    bucket.put("adapters/hand/aliases.json", f'{{"stable": "{version}"}}'.encode())
    store.fetch(store.stable("hand"))
    assert store.catalog().faults == {}


def test_a_bucket_that_goes_or_is_emptied_is_a_store_that_is_away(
    bucket: Objects, source: Adapter, store: Store
) -> None:
    bucket.fill(source, 2)
    store.catalog()
    for key in bucket.keys:
        bucket.backend.delete_object(BUCKET, key)
    with pytest.raises(StoreUnavailable, match="held 2 adapters"):
        store.catalog()
    bucket.backend.delete_bucket(BUCKET)
    with pytest.raises(StoreUnavailable, match="does not exist"):
        store.catalog()
