"""The operator's changes to adapters: move an alias, set a canary's share, roll back, pin, prefetch, delete.

A change is written to the store, which every replica follows; this one reads it at once. A change may be given tags
(`Aliases.tag`): if the aliases then have none of them, nothing is changed and AliasesChanged is raised. In a store on a
disk, comparing and writing are under one lock; a bucket has no locks, and of two writers at once the last one wins.

All of this raises StoreUnavailable where the store cannot be read or written.
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
    """Makes changes to the store of one service."""

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
        """Make an alias, or move it to a version, once that is proven.

        `wanted` is the version, its first eight digits or more, or another alias. `weight` is the alias's share, 0 to
        1, of the questions that name no alias; None keeps it.

        Raises:
            AdapterNotFound: there is no such adapter or version.
            AdapterRefused: the version must not serve, or failed when it was loaded; nothing was changed then.
            EngineUnavailable: there is no engine to prove it on; nothing was changed then.
            InvalidRequest: the shares of all aliases come to over 1, or stable was given one.
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
            AdapterNotFound: there is no such adapter.
            AdapterRefused: the alias has no previous version, or that must not serve or failed when it was loaded;
                nothing was changed then.
            EngineUnavailable: there is no engine to prove it on; nothing was changed then.
            AliasesChanged: the aliases are none of `tags`.
        """
        before = (await self.shelf(name, tags)).aliases.roll_back(alias).named[alias]
        await self.residency.prove(self.store.at(name, before.version))
        await self._change(name, lambda old: old.roll_back(alias), tags)

    async def pin(self, name: str, pinned: bool, tags: Collection[str] = ()) -> None:
        """Keep the versions that an adapter's aliases name loaded, or with `pinned` false no longer.

        Raises:
            AdapterNotFound: there is no such adapter.
            InvalidRequest: all pinned versions would leave no place for another.
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
        """Load the versions that an adapter's aliases name in this replica.

        Raises:
            AdapterNotFound: there is no such adapter, or one of the versions is refused.
            AdapterUnavailable, EngineUnavailable: one of them cannot be loaded now.
        """
        for alias in (await self.shelf(name)).aliases.named:
            with self.residency.lease(f"{name}@{alias}") as lease:
                async with lease.loaded():
                    pass

    async def drop_alias(self, name: str, alias: str, tags: Collection[str] = ()) -> None:
        """Remove an alias; its version stays.

        Raises:
            AdapterNotFound: there is no such adapter or alias.
            InvalidRequest: it is stable, without which nobody could ask the adapter by its name.
            AliasesChanged: the aliases are none of `tags`.
        """
        if alias == STABLE:
            raise InvalidRequest("stable cannot be taken away: move it, or delete the adapter")
        if alias not in (await self.shelf(name, tags)).aliases.named:
            raise AdapterNotFound(f"{name} has no alias {alias[:64]!r}")
        await self._change(name, lambda old: old.without(alias), tags)

    async def delete(self, name: str, tags: Collection[str] = ()) -> None:
        """Remove an adapter; questions under way are answered, and its files are removed once no replica can need them.

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
