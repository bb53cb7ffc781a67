"""OpenTelemetry spans: one for a request, one for each hop of it. The API alone; without an exporter it costs nothing.

Names and attributes come from bounded sets (routes, served adapters, tenants, error codes): never a caller's words.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import TypeVar

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

T = TypeVar("T")

tracer = trace.get_tracer("manylens")


def recording() -> bool:
    """Whether spans are kept: somebody named an exporter, or a library that keeps them set itself up."""
    unset = isinstance(tracer, trace.ProxyTracer) and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    return not unset


def export(url: str) -> None:
    """Send spans to an OTLP collector over HTTP, from now on and for the whole process.

    Raises:
        ImportError: the extra `tracing` is not installed.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "manylens"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    trace.set_tracer_provider(provider)


@contextmanager
def hop(name: str) -> Iterator[None]:
    """A span around one hop; an error's code, or its class, is the span's status.

    It is never the current one, since a generator may be closed from another context than it was started in.
    """
    span = tracer.start_span(name)
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        span.set_status(Status(StatusCode.ERROR, getattr(error, "code", type(error).__name__)))
        raise
    finally:
        span.end()


async def engine_hops(deltas: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """`deltas` as they are, with a span up to the first and another up to the last."""
    async with aclosing(deltas):
        with hop("engine first token"):
            try:
                first = await anext(deltas)
            except StopAsyncIteration:
                return
        with hop("engine decode"):
            yield first
            async for delta in deltas:
                yield delta


def note(outcome: str, adapter: str, tenant: str) -> None:
    """Say on the request's span what came of a question."""
    trace.get_current_span().set_attributes({"vqa.outcome": outcome, "vqa.adapter": adapter, "vqa.tenant": tenant})


def trace_id() -> str:
    """The running request's trace in hex, or "" where there is none."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""
