"""Lets requests in while the service serves, answers the others itself, and ends what is cut; in plain ASGI."""

from collections.abc import Collection

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Draining, ServiceError
from service.lifetime import Life
from service.routes import failure

# Answered whatever the state: probes under all their names, metrics, and the routes as OpenAPI.
ALWAYS = frozenset({"/healthz", "/readyz", "/health", "/livez", "/ping", "/metrics", "/openapi.json"})


class Gate:
    """Refuses, before anything of a request is read or looked up, what `life` says; counts the rest as under way."""

    def __init__(self, app: ASGIApp, life: Life, always: Collection[str] = ()) -> None:
        """`always` are further paths that are answered whatever the state."""
        self.app, self.life, self._always = app, life, ALWAYS.union(always)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["path"].removeprefix(scope.get("root_path", "")) in self._always:
            await self.app(scope, receive, send)
        elif (refusal := self.life.refusal) is not None:
            await _refuse(refusal, scope, receive, send)
        else:
            with self.life.request():
                await self._pass(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self.life.bounded() as clock:

                async def send_noted(message: Message) -> None:
                    self.life.spare(clock)  # once an answer has begun, whoever writes it words its end
                    await send(message)

                await self.app(scope, receive, send_noted)
        except Draining as error:  # the app's own never come here
            await _refuse(error, scope, receive, send)


async def _refuse(error: ServiceError, scope: Scope, receive: Receive, send: Send) -> None:
    response = await failure.reply(Request(scope, receive), error)
    await response(scope, receive, send)
