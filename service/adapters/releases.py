"""The operator's changes to adapters: move an alias, set a canary's share, roll back, pin, prefetch, delete.

Written to the store, from where every replica takes it; this one at once. A change may name the tags of the aliases
(`Aliases.tag`) that it is to be made to: where they are others by now, nothing is changed and AliasesChanged is raised.
In a store on a disk that is compared and written under one lock; a bucket has none, and of two writers in the same
moment the last one wins.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from service.adapters.aliases import STABLE, Aliases
from service.adapters.residency import Residency
from service.adapters.routing import Shelf, version_of
from service.adapters.store import Store
from service.errors import AdapterNotFound, AliasesChanged, InvalidRequest
from service.workers import Workers


@dataclass(frozen=True)
class Releases:
    """Changes to the store of one service."""

    store: Store
    residency: Residency
    workers: Workers

    async def shelf(self, name: str, tags: Collection[str] = ()) -> Shelf:
        """One adapter as the store has it now.

        Raises:
            AdapterNotFound: there is no such adapter.
            AliasesChanged: its aliases are none of `tags`, where any are named.
        """
        await self.residency.refresh()
        if name not in self.residency.wanted.shelves:
            raise AdapterNotFound(f"no adapter {name[:64]!r} in the store")
        shelf = self.residency.wanted.shelves[name]
        _compare(name, shelf.aliases, tags)
        return shelf

    async def point(self, name: str, alias: str, wanted: str, weight: float | None, tags: Collection[str] = ()) -> None:
        """Make an alias, or move it to what another alias or the front of a version names, once that is proven.

        `weight` is the share of the bare name's questions; None keeps it.

        Raises:
            AdapterNotFound, AdapterRefused: there is no such version, or it must not serve; nothing was changed then.
            InvalidRequest: the shares of all aliases exceed the whole, or stable was given one.
            AliasesChanged: the aliases are none of `tags`.
        """
        shelf = await self.shelf(name, tags)
        target = version_of(name, shelf, wanted)
        named = shelf.aliases.named
        share = weight if weight is not None else named[alias].weight if alias in named else 0.0
        others = sum(other.weight for key, other in named.items() if key != alias)
        if share + others > 1 or (share and alias == STABLE):
            raise InvalidRequest(
                f"a weight of {share:g} for {alias!r}: stable answers what the others leave, of 1 in all"
            )
        await self.residency.prove(self.store.at(name, target))
        await self._change(name, lambda old: old.point(alias, target, share), tags)

    async def roll_back(self, name: str, alias: str, tags: Collection[str] = ()) -> None:
        """Point an alias at its previous version.

        Raises:
            AdapterNotFound, AdapterRefused: there is none, or it must not serve; nothing was changed then.
            AliasesChanged: the aliases are none of `tags`.
        """
        before = (await self.shelf(name, tags)).aliases.roll_back(alias).named[alias]
        await self.residency.prove(self.store.at(name, before.version))
        await self._change(name, lambda old: old.roll_back(alias), tags)

    async def pin(self, name: str, pinned: bool, tags: Collection[str] = ()) -> None:
        """Keep the versions an adapter's aliases name loaded, or no longer.

        Raises:
            AdapterNotFound: there is no such adapter.
            InvalidRequest: pinned adapters would leave no room for others.
            AliasesChanged: the aliases are none of `tags`.
        """
        shelf = await self.shelf(name, tags)
        all_pinned = {adapter.key for adapter in self.residency.pinned()}
        all_pinned |= {f"{name}@{alias.version}" for alias in shelf.aliases.named.values()}
        room = self.residency.reconciler.capacity - 1
        if pinned and len(all_pinned) > room:
            raise InvalidRequest(
                f"{len(all_pinned)} versions would be pinned, there is room for {room} beside the rest"
            )
        await self._change(name, lambda old: old.model_copy(update={"pinned": pinned}), tags)

    async def prefetch(self, name: str) -> None:
        """Load the versions an adapter's aliases name in this replica, before someone asks."""
        for alias in (await self.shelf(name)).aliases.named:
            with self.residency.lease(f"{name}@{alias}") as lease:
                async with lease.loaded():
                    pass

    async def drop_alias(self, name: str, alias: str, tags: Collection[str] = ()) -> None:
        """Take an alias away; its version stays.

        Raises:
            AdapterNotFound: there is no such adapter or alias.
            InvalidRequest: it is stable, without which an adapter has no name.
            AliasesChanged: the aliases are none of `tags`.
        """
        if alias == STABLE:
            raise InvalidRequest("stable cannot be taken away: move it, or delete the adapter")
        if alias not in (await self.shelf(name, tags)).aliases.named:
            raise AdapterNotFound(f"{name} has no alias {alias[:64]!r}")
        await self._change(name, lambda old: old.without(alias), tags)

    async def delete(self, name: str, tags: Collection[str] = ()) -> None:
        """Remove an adapter; questions under way are answered, and its files go when no replica can need them.

        Raises:
            AdapterNotFound: there is no such adapter.
            AliasesChanged: the aliases are none of `tags`, as of just before they are removed.
        """
        await self.shelf(name, tags)
        await self.workers.run(self.store.delete, name)
        await self.residency.refresh()

    async def _change(self, name: str, change: Callable[[Aliases], Aliases], tags: Collection[str]) -> None:
        def compared(old: Aliases) -> Aliases:
            _compare(name, old, tags)
            return change(old)

        await self.workers.run(self.store.change, name, compared)
        await self.residency.refresh()


def _compare(name: str, aliases: Aliases, tags: Collection[str]) -> None:
    if tags and aliases.tag not in tags:
        raise AliasesChanged(f"the aliases of {name} were changed meanwhile: look at them again (GET), then decide")
