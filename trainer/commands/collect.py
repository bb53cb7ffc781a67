"""`trainer store collect`: old versions that no alias names are marked, and removed when the mark is old enough."""

import time

from service.adapters.store import Store
from trainer.config.store import CollectOptions

# Until then a request that began before the mark was written may still need the files.
_GRACE_S = 600.0


def collect(options: CollectOptions) -> str:
    """Mark and remove; returns a line that says how many of each.

    Raises:
        StoreUnavailable: the store cannot be read or written; what was marked stays marked.
    """
    store, age_s = Store(options.store), max(options.days * 86400, _GRACE_S)
    marked, removed = 0, 0
    for name in sorted(store.catalog().shelves):
        waiting, gone = store.collect(name, options.keep, age_s, time.time())
        marked, removed = marked + len(waiting), removed + len(gone)
    store.close()
    return f"{removed} versions removed; {marked} that nothing names wait until they are {age_s / 86400:g} days unnamed"
