"""The content of `aliases.json`: each alias's version, a canary's share, and the versions before. Data only."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from service.errors import AdapterRefused

STABLE, CANARY = "stable", "canary"
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
VERSION = r"[0-9a-f]{64}"
AliasName = Annotated[str, Field(pattern=f"^{NAME}$")]
Version = Annotated[str, Field(pattern=f"^{VERSION}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Alias(_Frozen):
    """A version, and the share (0 to 1) that it answers of the questions that name no alias."""

    version: Version
    weight: Annotated[float, Field(ge=0, le=1)] = 0.0


class Aliases(_Frozen):
    """One adapter's aliases; `previous` has the versions each pointed at before, newest last.

    `since` is when each alias was last moved or given another share; an alias that was moved before times were written
    down has none.
    """

    named: dict[AliasName, Alias] = Field(default_factory=dict)
    previous: dict[AliasName, tuple[Version, ...]] = Field(default_factory=dict)
    since: dict[AliasName, AwareDatetime] = Field(default_factory=dict)
    pinned: bool = False

    @property
    def changed(self) -> datetime | None:
        """When any alias was last moved or given another share; None where none of them has a time."""
        return max(self.since.values(), default=None)

    @property
    def tag(self) -> str:
        """The entity tag (HTTP's ETag, without quotes): 16 hex digits of SHA-256 over all of these."""
        return hashlib.sha256(self.dump()).hexdigest()[:16]

    @classmethod
    def parse(cls, text: bytes) -> "Aliases":
        """Read `{"stable": VERSION, "canary": {"version": VERSION, "weight": 0.05}}`; other fields begin with `_`.

        Raises:
            ValueError: `text` has another form.
        """
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise ValueError("it is no JSON object")
        named = {name: said for name, said in raw.items() if not name.startswith("_")}
        rest = {name[1:]: said for name, said in raw.items() if name.startswith("_")}
        plain = {name: {"version": said} if isinstance(said, str) else said for name, said in named.items()}
        return cls.model_validate({"named": plain, **rest})

    def dump(self) -> bytes:
        """The bytes of `aliases.json`, as `parse` reads them."""
        said = {
            name: alias.model_dump() if alias.weight else alias.version for name, alias in sorted(self.named.items())
        }
        rest = {f"_{name}": value for name, value in self.model_dump(mode="json").items() if name != "named" and value}
        return json.dumps(said | rest, indent=2).encode() + b"\n"

    def point(self, name: str, version: str, weight: float = 0.0) -> "Aliases":
        """A copy in which the alias `name` leads to `version` with that share; its version before goes to `previous`.

        Returns this object itself where the alias has both already.
        """
        before, after = self.named.get(name), Alias(version=version, weight=weight)
        if before == after:
            return self
        changed = {"named": {**self.named, name: after}, "since": {**self.since, name: _now()}}
        if before is not None and before.version != version:
            changed["previous"] = {**self.previous, name: (*self.previous.get(name, ()), before.version)}
        return self.model_copy(update=changed)

    def roll_back(self, name: str) -> "Aliases":
        """A copy in which an alias leads to its previous version again.

        Raises:
            AdapterRefused: the alias has no previous version.
        """
        past = self.previous.get(name, ())
        if name not in self.named or not past:
            raise AdapterRefused("history", f"alias {name!r} has no version before this one to go back to")
        named = {**self.named, name: Alias(version=past[-1], weight=self.named[name].weight)}
        changed = {
            "named": named,
            "previous": {**self.previous, name: past[:-1]},
            "since": {**self.since, name: _now()},
        }
        return self.model_copy(update=changed)

    def without(self, name: str) -> "Aliases":
        """A copy without one alias."""
        kept = {
            what: {alias: value for alias, value in getattr(self, what).items() if alias != name}
            for what in ("named", "previous", "since")
        }
        return self.model_copy(update=kept)

    def less(self, versions: frozenset[str]) -> "Aliases":
        """A copy in which `previous` no longer has the versions that are removed."""
        previous = {name: tuple(v for v in past if v not in versions) for name, past in self.previous.items()}
        return self.model_copy(update={"previous": previous})

    def choose(self, side: float) -> str:
        """The alias that answers a question without an alias, for a number `side` in [0, 1) that is drawn for it.

        Aliases but stable take ranges from 0 on, as long as their weights, in order of names; stable has the rest.
        """
        for name, alias in sorted(self.named.items()):
            side -= alias.weight if name != STABLE else 0.0
            if side < 0:
                return name
        return STABLE


def _now() -> datetime:
    return datetime.fromisoformat(datetime.now(UTC).isoformat(timespec="milliseconds"))
