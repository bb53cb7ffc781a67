"""Looks at the adapter store again and again: replicas over one store converge without talking to each other."""

import asyncio
import logging

from service.adapters.residency import Residency

log = logging.getLogger(__name__)


async def watch(residency: Residency, every_s: float) -> None:
    """Follow the store until cancelled; one that cannot be read changes nothing of what serves."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await residency.refresh()
        except Exception:  # clouds and disks fail in their own words, and the next look may do better
            log.exception("the adapter store could not be followed; what serves goes on serving")
