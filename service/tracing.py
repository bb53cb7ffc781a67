"""OpenTelemetry spans: one for a request, one for each step of it (a hop). Without an exporter none is recorded.

Names and attributes come from bounded sets (routes, served adapters, tenants, error codes); of a caller's own text
they have the request id alone.
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
    """Whether spans are recorded: `export` was called, or a library set a tracer provider of its own."""
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
    """Record a span `name` while the block runs; an error's code, or its class, becomes the span's status.

    It is not made the current span, since a generator may be closed from another context than it was started in.
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
    """Yield `deltas` unchanged, with one span up to the first and another from there up to the last."""
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
    """Set a question's outcome, adapter and tenant as attributes of the current span."""
    trace.get_current_span().set_attributes({"vqa.outcome": outcome, "vqa.adapter": adapter, "vqa.tenant": tenant})


def trace_id() -> str:
    """The running request's trace in hex, or "" where there is none."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""
