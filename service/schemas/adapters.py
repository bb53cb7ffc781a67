"""Wire shapes of /v1/adapters, read off a residency: what JSON comes in and goes out."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from service.adapters.aliases import STABLE, AliasName
from service.adapters.residency import Residency
from service.errors import AdapterNotFound
from service.schemas import Incoming
from service.types import Adapter


class AdapterChange(Incoming):
    """Move an alias, share traffic out to it, or pin the adapter: what is left out stays."""

    alias: AliasName = STABLE
    version: Annotated[
        str | None, Field(max_length=64, description="a version, eight digits of it or more, or another alias")
    ] = None
    weight: Annotated[
        float | None, Field(ge=0, le=1, description="share of the questions that name no alias or version")
    ] = None
    pin: Annotated[bool | None, Field(description="keep it loaded")] = None


class Rollback(Incoming):
    """Which alias goes back to its previous version."""

    alias: AliasName = STABLE


class BaseOut(BaseModel):
    """The base model in service."""

    id: str
    precision: str
    digest: str


class AdapterOut(BaseModel):
    """An adapter that serves, with the held-out result its manifest records (right answers out of rows)."""

    name: str
    version: str
    state: Annotated[str, Field(description="serving, or unproven: it has no manifest, hence no figures")]
    pinned: bool
    loaded: bool
    about: Annotated[str | None, Field(description="what it is for, in its maker's words")] = None
    rank: int | None = None
    rows: int | None = None
    base_right: int | None = None
    adapter_right: int | None = None
    base_precision: str | None = None

    @classmethod
    def of(cls, residency: Residency, adapter: Adapter) -> "AdapterOut":
        """A served version."""
        pinned = residency.served.shelves[adapter.name].aliases.pinned
        out = cls(
            name=adapter.name,
            version=adapter.version,
            state=residency.state(adapter),
            pinned=pinned,
            loaded=adapter in residency.slots.loaded(),
        )
        manifest = residency.judge.accepted.get(adapter)
        if manifest is None:
            return out
        facts = {
            "about": manifest.about or None,
            "rank": manifest.rank,
            "rows": manifest.score.rows,
            "base_right": manifest.score.base,
            "adapter_right": manifest.score.adapter,
            "base_precision": manifest.base_precision,
        }
        return out.model_copy(update=facts)


class RefusedOut(BaseModel):
    """A version that an alias of the store names and that does not serve, and why."""

    name: str
    version: str | None
    reason: str
    message: str


class RouterOut(BaseModel):
    """A name that stands for one adapter when a question has an image, and for another when it has none."""

    name: str
    image: str | None
    text: str | None


class AdaptersResponse(BaseModel):
    """What GET /v1/adapters answers."""

    base: BaseOut
    adapters: list[AdapterOut]
    refused: list[RefusedOut]
    routers: list[RouterOut]


class AliasOut(BaseModel):
    """An alias as the store has it, and the version that answers for it here: another while the new one is proven."""

    version: str
    weight: float
    serving: str | None
    previous: list[str]


class VersionOut(BaseModel):
    """A version of the store; `manifest` is what it says of itself, once it was judged."""

    version: str
    state: Annotated[str, Field(description="serving, unproven, refused, or idle: no alias in service names it")]
    loaded: bool
    reason: str | None
    message: str | None
    manifest: dict[str, Any] | None


class AdapterDetail(BaseModel):
    """What GET /v1/adapters/{name} answers."""

    name: str
    pinned: bool
    aliases: dict[str, AliasOut]
    versions: list[VersionOut]

    @classmethod
    def of(cls, residency: Residency, name: str) -> "AdapterDetail":
        """All that is known of one adapter.

        Raises:
            AdapterNotFound: there is no such adapter.
        """
        shelf, served = residency.wanted.shelves.get(name), residency.served.shelves.get(name)
        if shelf is None or served is None:
            raise AdapterNotFound(residency.wanted.faults.get(name, f"no adapter {name[:64]!r} in the store"))
        aliases = {
            alias: AliasOut(
                version=wish.version,
                weight=wish.weight,
                serving=served.aliases.named[alias].version if alias in served.aliases.named else None,
                previous=list(shelf.aliases.previous.get(alias, ())),
            )
            for alias, wish in sorted(shelf.aliases.named.items())
        }
        named = {alias.version for alias in shelf.aliases.named.values()}
        versions = [_version(residency, residency.at(name, version)) for version in sorted(shelf.versions | named)]
        return cls(name=name, pinned=shelf.aliases.pinned, aliases=aliases, versions=versions)


def _version(residency: Residency, adapter: Adapter) -> VersionOut:
    error, manifest = residency.judge.refused.get(adapter), residency.judge.accepted.get(adapter)
    return VersionOut(
        version=adapter.version,
        state=residency.state(adapter),
        loaded=adapter in residency.slots.loaded(),
        reason=error.reason if error else None,
        message=error.message if error else None,
        manifest=manifest.model_dump(exclude={"probes"}) if manifest else None,
    )
