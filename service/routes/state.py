"""What routes may reach: the parts of one running service, put together by `create_app`."""

import asyncio
from dataclasses import dataclass, field

from fastapi import Request

from service.adapters.base import Base
from service.adapters.releases import Releases
from service.adapters.residency import Residency
from service.engine import Engine
from service.metrics import Metrics
from service.settings import Settings
from service.vqa import VQA


@dataclass
class Service:
    """One running service; `warm` is set once the engine answers and every adapter was proven or refused."""

    settings: Settings
    base: Base
    engine: Engine
    residency: Residency
    releases: Releases
    vqa: VQA
    metrics: Metrics
    warm: asyncio.Event = field(default_factory=asyncio.Event)


def get_service(request: Request) -> Service:
    """The running service of a request, for `Depends`."""
    found: Service = request.app.state.service
    return found
