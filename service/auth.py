"""A key -> the tenant that holds it and may ask now. Knows no HTTP; what a tenant may is enforced where it is asked.

The file of keys is JSON, tenants by name, each with the SHA-256 digests of its keys; all else is optional:

    {"ops": {"keys": ["9f86d081…"], "admin": true},
     "acme": {"keys": ["60303ae2…", "fd61a03a…"], "adapters": ["digits", "shop-*"], "rate": "10/second",
              "concurrency": 8, "priority": 2}}

Digests without salt are safe for keys nobody can guess, so make them of 32 random bytes, as this does:

    python -c 'import hashlib as h, secrets as s; k = s.token_urlsafe(32); print(k, h.sha256(k.encode()).hexdigest())'
"""

import asyncio
import hashlib
import hmac
import logging
from pathlib import Path
from typing import Annotated

import limits
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.errors import LimitReached, Unauthorized
from service.rates import Rates
from service.types import Tenant
from service.workers import Workers

log = logging.getLogger(__name__)

POLL_S = 1.0


class KeysFault(ValueError):
    """The file of keys cannot be read or means nothing; raised at start only, later the keys before stay in force."""


def _rate(text: str) -> str:
    limits.parse(text)  # raises ValueError
    return text


class _Entry(BaseModel):
    """A tenant as its file has it; see Tenant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...]
    admin: bool = False
    adapters: tuple[str, ...] = ("*",)
    rate: Annotated[str, AfterValidator(_rate)] | None = None
    concurrency: Annotated[int, Field(gt=0)] | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 0


_Entries = TypeAdapter(dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")], _Entry])


class Tenants:
    """Who may ask, by a file that may change while we run; without one, everybody is `nobody`.

    Raises:
        KeysFault: the file is not as it should be.
    """

    def __init__(self, path: Path | None, nobody: Tenant, rates: Rates | None = None) -> None:
        self._path, self._nobody = path, nobody
        self._rates = rates or Rates()
        self._stamp: tuple[int, ...] = ()
        self._fault = ""
        self._holders: list[tuple[bytes, Tenant]] = []
        if path is not None:
            self._read(path)

    async def admit(self, tenant: Tenant | None) -> Tenant:
        """The holder of a key, charged for one question.

        Raises:
            Unauthorized: nobody holds it.
            LimitReached: its tenant asks more often than it may.
        """
        if tenant is None:
            raise Unauthorized("send a valid key as Authorization: Bearer …")
        await self.charge(tenant)
        return tenant

    async def watch(self, workers: Workers) -> None:
        """Follow the file for ever; a change holds from the next request after POLL_S at the latest."""
        while self._path is not None:
            await asyncio.sleep(POLL_S)
            await workers.run(self.refresh)

    def refresh(self) -> None:
        """Read the file if it changed; a bad one changes nothing, and is said once. Blocks."""
        if self._path is None:
            return
        try:
            if _stamp(self._path) != self._stamp:
                self._read(self._path)
                log.info("read the keys of %d tenants", len({tenant.name for _, tenant in self._holders}))
                self._fault = ""
        except (OSError, KeysFault) as error:
            if str(error) != self._fault:
                self._fault = str(error)
                log.error("the keys before stay in force: %s", error)

    def _read(self, path: Path) -> None:
        try:
            stamp = _stamp(path)  # before the content: a change in between is seen next time
            entries = _Entries.validate_json(path.read_bytes())
        except OSError as error:
            raise KeysFault(str(error)) from error
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, fault['loc'][:2]))}: {fault['msg']}" for fault in error.errors())
            raise KeysFault(f"{path}: {'; '.join(faults)}") from error
        holders = [
            (bytes.fromhex(digest), Tenant(name, **entry.model_dump(exclude={"keys"})))
            for name, entry in entries.items()
            for digest in entry.keys
        ]
        if len({digest for digest, _ in holders}) < len(holders):
            raise KeysFault(f"{path}: one key is there twice")
        self._holders, self._stamp = holders, stamp

    def holder(self, key: str | None) -> Tenant | None:
        """The tenant that holds `key`, if one does."""
        if self._path is None:
            return self._nobody
        digest, found = hashlib.sha256((key or "").encode(errors="replace")).digest(), None
        for held, tenant in self._holders:  # all of them, in constant time: how long it takes tells nothing
            if hmac.compare_digest(held, digest):
                found = tenant
        return found

    async def charge(self, tenant: Tenant, questions: int = 1) -> None:
        """Count so many questions against a tenant's rate: all of them, or none.

        Raises:
            LimitReached: they are more than it has left, now or at any time.
        """
        if tenant.rate is None or not questions:
            return
        rate = limits.parse(tenant.rate)
        if questions >= rate.amount and questions > 1:
            raise LimitReached(f"your key may ask {tenant.rate}: send these questions in smaller batches")
        if (seconds := await self._rates.hit(rate, tenant.name, questions)) is not None:
            raise LimitReached(f"your key may ask {tenant.rate}: try again in {seconds} s", seconds)


def _stamp(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino
