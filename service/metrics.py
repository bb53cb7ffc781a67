"""Every series the service exposes. Label sets are bounded: an adapter label is a served adapter's name, or ""."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """One service's series in a registry of their own; the engine's `vllm:*` live in the process's default registry."""

    def __init__(self) -> None:
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
        self.in_flight = Gauge("vqa_in_flight", "Requests accepted and not yet answered", registry=registry)
        self.resident = Gauge(
            "vqa_adapter_resident",
            "1 for every adapter version loaded in the engine",
            ("adapter", "version"),
            registry=registry,
        )
        self.load_seconds = self._histogram("vqa_adapter_load_seconds", "Proving and loading an adapter", ())
        self.rejected = Counter(
            "vqa_adapter_rejected_total", "Adapters refused, by reason", ("reason",), registry=registry
        )

        self.captured = Counter(
            "vqa_captured_total",
            "Questions and corrections kept as training data, by outcome",
            ("outcome",),
            registry=registry,
        )
        self.engine_restarts = Counter(
            "vqa_engine_restarts_total", "Times the engine was started again", registry=registry
        )

    def _histogram(self, name: str, text: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(name, f"{text}, in seconds", labels, registry=self.registry, buckets=_SECONDS)
