"""Wire shapes of /v1/adapters, made from a Residency."""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from service.adapters.aliases import STABLE, AliasName
from service.adapters.residency import Residency
from service.adapters.version import State
from service.errors import AdapterNotFound
from service.intervals import wilson
from service.online import Comparison, VersionUse
from service.outcomes import quantile
from service.schemas import Incoming
from service.types import Adapter


class AdapterChange(Incoming):
    """Move an alias, give it a share of the questions, or pin the adapter; fields that are left out change nothing."""

    alias: AliasName = STABLE
    version: Annotated[
        str | None, Field(max_length=64, description="a version, eight digits of it or more, or another alias")
    ] = None
    weight: Annotated[
        float | None, Field(ge=0, le=1, description="share of the questions that name no alias or version")
    ] = None
    pin: Annotated[bool | None, Field(description="keep it loaded")] = None


class Rollback(Incoming):
    """The alias to point at its previous version."""

    alias: AliasName = STABLE


class BaseOut(BaseModel):
    """The base model that is served."""

    id: str
    precision: str
    digest: str


class _Standing(BaseModel):
    """One version's state in this replica."""

    version: str
    state: Annotated[
        str,
        Field(
            description="stored: only in the store; fetching, here (its files are on this disk), queued, loading: on "
            "its way to the engine; serving; leaving: being unloaded; unreachable, failed: tried again at `retry_at`; "
            "refused: until its files change"
        ),
    ]
    proof: Annotated[
        Literal["proven", "unproven"] | None,
        Field(description="proven by its probes; unproven: it has no manifest; null: it is proven when first asked"),
    ]
    calibrated: Annotated[
        bool | None,
        Field(
            description="whether its answers have a calibrated_confidence, and it takes abstain_below; null: not known"
            " before this replica first fetched it"
        ),
    ]
    loaded: bool
    reason: str | None = None
    message: str | None = None
    retry_at: Annotated[str | None, Field(description="when it is tried again, UTC")] = None

    @staticmethod
    def facts(residency: Residency, adapter: Adapter) -> dict[str, Any]:
        """The fields above for a version, by name."""
        status, verdict = residency.status(adapter), residency.verdict(adapter)
        proof = None
        if verdict is not None and verdict.reason is None:
            proof = "proven" if verdict.facts else "unproven"
        return {
            "version": adapter.version,
            "state": status.state,
            "proof": proof,
            "calibrated": residency.calibrated(adapter),
            "loaded": status.state is State.SERVING,
            "reason": status.reason,
            "message": status.message,
            "retry_at": _utc(status.retry_at),
        }


class AdapterOut(_Standing):
    """An adapter that can be asked; the facts of its manifest are null until this replica judged the version.

    `base_right` and `adapter_right` are right answers out of `rows` held-out ones.
    """

    name: str
    pinned: bool
    about: Annotated[str | None, Field(description="what it is for, in its maker's words")] = None
    rank: int | None = None
    rows: int | None = None
    base_right: int | None = None
    adapter_right: int | None = None
    base_precision: str | None = None
    created: Annotated[str | None, Field(description="when it was trained, UTC")] = None
    weights: Annotated[
        dict[str, float],
        Field(description="other aliases with a share of the questions that name no alias, and that share, 0 to 1"),
    ] = {}

    @classmethod
    def of(cls, residency: Residency, name: str) -> "AdapterOut":
        """The adapter `name` with the version that its alias `stable` leads to in this replica."""
        aliases = residency.served.shelves[name].aliases
        adapter = residency.at(name, aliases.named[STABLE].version)
        weights = {alias: to.weight for alias, to in aliases.named.items() if to.weight}
        out = cls(name=name, pinned=aliases.pinned, weights=weights, **_Standing.facts(residency, adapter))
        verdict = residency.verdict(adapter)
        if verdict is None or verdict.facts is None:
            return out
        facts = {
            "about": verdict.facts.about or None,
            "rank": verdict.facts.rank,
            "rows": verdict.facts.score.rows,
            "base_right": verdict.facts.score.base,
            "adapter_right": verdict.facts.score.adapter,
            "base_precision": verdict.facts.base_precision,
            "created": verdict.facts.created,
        }
        return out.model_copy(update=facts)


class RefusedOut(BaseModel):
    """An entry of the store, or a version that an alias names, that is not served.

    With `retry_at` it is tried again then; without, when its files change.
    """

    name: str
    version: str | None
    reason: str
    message: str
    retry_at: str | None = None


class RouterOut(BaseModel):
    """A name that stands for one adapter when a question has an image, and for another when it has none."""

    name: str
    image: str | None
    text: str | None


class AdaptersResponse(BaseModel):
    """The answer of GET /v1/adapters: a page of names, sorted."""

    base: BaseOut
    adapters: list[AdapterOut]
    refused: list[RefusedOut]
    routers: list[RouterOut]
    next: Annotated[str | None, Field(description="send it as `after` for the next page; null: this is the last")] = (
        None
    )

    @classmethod
    def page(
        cls, base: BaseOut, residency: Residency, sees: Callable[[str], bool], limit: int, after: str
    ) -> "AdaptersResponse":
        """The page of the first `limit` names after `after` for which `sees` is true."""
        every = residency.wanted.every
        seen = (name for name in islice(every, bisect_right(every, after), None) if sees(name))
        names = list(islice(seen, limit))
        more = next(seen, None) is not None
        served = residency.served
        return cls(
            base=base,
            adapters=[
                AdapterOut.of(residency, name)
                for name in names
                if name in served.shelves and STABLE in served.shelves[name].aliases.named
            ],
            refused=[refused for name in names for refused in _refused(residency, name)],
            routers=[
                RouterOut(name=name, **{kind: to if to and sees(to) else None for kind, to in served.routers[name]})
                for name in names
                if name in served.routers
            ],
            next=names[-1] if more else None,
        )


class AliasOut(BaseModel):
    """An alias: `version` is what it leads to in the store, `serving` the version that answers for it in this replica.

    The two differ while the version is being proven, or where it was refused. `previous` has the versions before,
    newest last; `weight` is its share of the questions that name no alias, 0 to 1.
    """

    version: str
    weight: float
    serving: str | None
    previous: list[str]


class OnlineOut(BaseModel):
    """How a version does with questions that came by name or alias, since the adapter's `since`.

    Questions are those of this replica since it started. Feedback is what the directory of --capture holds: replicas
    with the same `kept_in` share it, so their feedback is the same and must not be added up.
    """

    right: Annotated[int, Field(description="answers that were judged, and were the right ones")]
    wrong: int
    agreement: Annotated[
        float | None, Field(description="share of right answers among those judged; null: none was judged")
    ]
    interval: Annotated[
        tuple[float, float] | None, Field(description="95% confidence interval of the agreement (Wilson's)")
    ]
    answered: Annotated[int, Field(description="questions answered by this replica")]
    failed: Annotated[
        int,
        Field(
            description="questions that failed by no mistake of the caller, missed deadlines too, refusals for load not"
        ),
    ]
    p50_s: Annotated[float | None, Field(description="seconds that half of the answers took at most")]
    p95_s: float | None
    seconds: Annotated[
        dict[float, int],
        Field(description="number of answers by the seconds they took at most, in 20 steps to a factor of 10"),
    ]

    @classmethod
    def of(cls, figures: VersionUse) -> "OnlineOut":
        """The wire shape of a version's figures."""
        told, asked = figures.feedback, figures.questions
        judged = told.right + told.wrong
        return cls(
            right=told.right,
            wrong=told.wrong,
            agreement=told.right / judged if judged else None,
            interval=wilson(told.right, judged),
            answered=asked.answered,
            failed=asked.failed,
            p50_s=quantile(asked.seconds, 0.5),
            p95_s=quantile(asked.seconds, 0.95),
            seconds=dict(sorted(asked.seconds.items())),
        )


class VersionOut(_Standing):
    """A version of the store; `manifest` is its manifest without probes, null until this replica judged the version."""

    manifest: dict[str, Any] | None
    online: Annotated[OnlineOut | None, Field(description="how it does with its callers; admins alone see it")] = None

    @classmethod
    def of(cls, residency: Residency, adapter: Adapter, figures: VersionUse | None = None) -> "VersionOut":
        """A version as this replica knows it; `figures` are shown as `online`."""
        verdict = residency.verdict(adapter)
        facts = verdict.facts.model_dump() if verdict and verdict.facts else None
        online = OnlineOut.of(figures) if figures else None
        return cls(manifest=facts, online=online, **_Standing.facts(residency, adapter))


class AdapterDetail(BaseModel):
    """The answer of GET /v1/adapters/{name}."""

    name: str
    pinned: bool
    since: Annotated[
        datetime | None, Field(description="when an alias was last moved or given another share; null: not known")
    ] = None
    kept_in: Annotated[
        str | None, Field(description="id of the directory that holds the feedback; replicas may share it")
    ] = None
    aliases: dict[str, AliasOut]
    versions: list[VersionOut]

    @classmethod
    def of(cls, residency: Residency, name: str, online: Comparison | None) -> "AdapterDetail":
        """All that is known of one adapter; `online` are its versions' figures, None for a caller who is no admin.

        Raises:
            AdapterNotFound: there is no such adapter.
        """
        shelf, served = residency.wanted.shelves.get(name), residency.served.shelves.get(name)
        if shelf is None or served is None:
            fault = residency.wanted.faults.get(name)
            raise AdapterNotFound(fault.message if fault else f"no adapter {name[:64]!r} in the store")
        aliases = {
            alias: AliasOut(
                version=wish.version,
                weight=wish.weight,
                serving=served.aliases.named[alias].version if alias in served.aliases.named else None,
                previous=list(shelf.aliases.previous.get(alias, ())),
            )
            for alias, wish in sorted(shelf.aliases.named.items())
        }
        versions = sorted(shelf.versions | residency.wanted.named(name))
        figures: Mapping[str, VersionUse] = online.versions if online else {}
        return cls(
            name=name,
            pinned=shelf.aliases.pinned,
            since=residency.changed(name),
            kept_in=online.kept_in if online else None,
            aliases=aliases,
            versions=[VersionOut.of(residency, residency.at(name, each), figures.get(each)) for each in versions],
        )


def _refused(residency: Residency, name: str) -> Iterator[RefusedOut]:
    if fault := residency.wanted.faults.get(name):
        yield RefusedOut(name=name, version=None, reason=fault.reason, message=fault.message)
    for version in sorted(residency.wanted.named(name)):
        status = residency.status(residency.at(name, version))
        if status.reason is not None:
            retry_at = _utc(status.retry_at)
            said = {"reason": status.reason, "message": status.message or "", "retry_at": retry_at}
            yield RefusedOut(name=name, version=version, **said)


def _utc(retry_at: float | None) -> str | None:
    """A time on the event loop's clock, in seconds, as UTC in ISO 8601."""
    if retry_at is None:
        return None
    left = timedelta(seconds=retry_at - asyncio.get_running_loop().time())
    return (datetime.now(UTC) + left).isoformat(timespec="seconds")
