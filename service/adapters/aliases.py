"""The content of `aliases.json`: each alias's version, a canary's share, and the versions before. Data only."""

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.errors import AdapterRefused

STABLE = "stable"
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
VERSION = r"[0-9a-f]{64}"
AliasName = Annotated[str, Field(pattern=f"^{NAME}$")]
Version = Annotated[str, Field(pattern=f"^{VERSION}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Alias(_Frozen):
    """A version, and the share of questions that name no alias which it answers."""

    version: Version
    weight: Annotated[float, Field(ge=0, le=1)] = 0.0


class Aliases(_Frozen):
    """One adapter's aliases; `previous` has the versions each pointed at before, newest last."""

    named: dict[AliasName, Alias] = Field(default_factory=dict)
    previous: dict[AliasName, tuple[Version, ...]] = Field(default_factory=dict)
    pinned: bool = False

    @classmethod
    def parse(cls, text: bytes) -> "Aliases":
        """Read `{"stable": VERSION, "canary": {"version": VERSION, "weight": 0.05}}`; `_` marks what is no alias.

        Raises:
            ValueError: it says something else.
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
        rest = {f"_{name}": value for name in ("previous", "pinned") if (value := getattr(self, name))}
        return json.dumps(said | rest, indent=2).encode() + b"\n"

    def point(self, name: str, version: str, weight: float = 0.0) -> "Aliases":
        """A copy in which the alias `name` leads to `version`; the version before is appended to `previous`."""
        before = self.named.get(name)
        named = {**self.named, name: Alias(version=version, weight=weight)}
        if before is None or before.version == version:
            return self.model_copy(update={"named": named})
        previous = {**self.previous, name: (*self.previous.get(name, ()), before.version)}
        return self.model_copy(update={"named": named, "previous": previous})

    def roll_back(self, name: str) -> "Aliases":
        """A copy in which an alias leads to its previous version again.

        Raises:
            AdapterRefused: the alias has no previous version.
        """
        past = self.previous.get(name, ())
        if name not in self.named or not past:
            raise AdapterRefused("history", f"alias {name!r} has no version before this one to go back to")
        named = {**self.named, name: Alias(version=past[-1], weight=self.named[name].weight)}
        return self.model_copy(update={"named": named, "previous": {**self.previous, name: past[:-1]}})

    def without(self, name: str) -> "Aliases":
        """A copy without one alias."""
        named, previous = ({k: v for k, v in old.items() if k != name} for old in (self.named, self.previous))
        return Aliases.model_validate({"named": named, "previous": previous, "pinned": self.pinned})

    def less(self, versions: frozenset[str]) -> "Aliases":
        """A copy in which `previous` no longer has the versions that are removed."""
        previous = {name: tuple(v for v in past if v not in versions) for name, past in self.previous.items()}
        return self.model_copy(update={"previous": previous})

    def choose(self, side: float) -> str:
        """The alias that answers for the bare name at a point of [0, 1); raising a weight moves no one off its side."""
        for name, alias in sorted(self.named.items()):
            side -= alias.weight if name != STABLE else 0.0
            if side < 0:
                return name
        return STABLE
