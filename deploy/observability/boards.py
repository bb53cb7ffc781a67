"""What the two dashboards show: rows of panels, each with its queries, unit, and what to read from it. Data only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """One panel: queries with their legends, the unit of its axis as Grafana names it, and what to read from it."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str
    about: str


@dataclass(frozen=True)
class Board:
    """One dashboard: rows of panels by their headings."""

    uid: str
    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]

    @property
    def panels(self) -> list[Panel]:
        """All its panels, in order."""
        return [panel for _, panels in self.rows for panel in panels]


def _of(name: str, *more: str) -> str:
    """A series of the replicas that the dashboard shows."""
    matchers = ",".join(('job="manylens"', 'instance=~"$instance"', *more))
    return f"{name}{{{matchers}}}"


def _rate(name: str, *more: str) -> str:
    return f"rate({_of(name, *more)}[$__rate_interval])"


def _news(name: str) -> str:
    """What a counter grew by in 15 minutes; one that is first seen at 1 has by itself increased by nothing."""
    series = _of(name)
    return f"(increase({series}[15m]) > 0) or ({series} unless {series} offset 15m)"


def _named(expression: str) -> str:
    """The same with a name for the base, whose label is empty, and so not there."""
    return f'label_replace({expression}, "adapter", "the base", "adapter", "")'


def _quantile(share: float, name: str, by: str = "", *more: str) -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) ({_rate(f'{name}_bucket', *more)}))"


def _quantiles(name: str) -> tuple[tuple[str, str], ...]:
    return tuple((_quantile(share, name), f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99))


_ADAPTER = 'adapter=~"$adapter"'
_BY_ADAPTER = "{{adapter}}"
_BY_REPLICA = "{{instance}}"

SERVICE = Board(
    "manylens-service",
    "Manylens: the service",
    (
        (
            "What callers see",
            (
                Panel(
                    "Requests by outcome",
                    ((f"sum by (outcome) ({_rate('vqa_requests_total')})", "{{outcome}}"),),
                    "reqps",
                    "ok, or the code of an error, as callers read it.",
                ),
                Panel(
                    "Share of requests that failed by the service's fault",
                    (
                        ('job:vqa_errors:ratio_rate5m{job="manylens"}', "5 minutes"),
                        ('job:vqa_errors:ratio_rate1h{job="manylens"}', "1 hour"),
                        ('job:vqa_errors:ratio_rate6h{job="manylens"}', "6 hours"),
                    ),
                    "percentunit",
                    "Objective: 0.1%. ErrorBudgetFast pages at 1.44%.",
                ),
                Panel(
                    "Time to first token",
                    _quantiles("vqa_time_to_first_token_seconds"),
                    "s",
                    "From accepted to the first word: the queue and the image are in it.",
                ),
                Panel("Time to answer", _quantiles("vqa_request_seconds"), "s", "From accepted to answered."),
                Panel(
                    "Share of first tokens over 0.5 s",
                    (
                        ('job:vqa_slow_first_tokens:ratio_rate5m{job="manylens"}', "5 minutes"),
                        ('job:vqa_slow_first_tokens:ratio_rate1h{job="manylens"}', "1 hour"),
                    ),
                    "percentunit",
                    "Objective: 5%. LatencyBudgetFast pages at 72%.",
                ),
                Panel(
                    "Time in the queue",
                    _quantiles("vqa_queue_seconds"),
                    "s",
                    "Waiting for a slot. Where this grows, there are too few replicas.",
                ),
            ),
        ),
        (
            "Replicas",
            (
                Panel(
                    "Ready and draining",
                    ((_of("vqa_ready"), f"{_BY_REPLICA} ready"), (_of("vqa_draining"), f"{_BY_REPLICA} draining")),
                    "none",
                    "1 while /readyz says so; draining from SIGTERM on.",
                ),
                Panel(
                    "Requests that run and wait",
                    (
                        (_of("vqa_requests_running"), f"{_BY_REPLICA} run"),
                        (_of("vqa_requests_waiting"), f"{_BY_REPLICA} wait"),
                        (_of("vqa_requests_waiting_limit"), f"{_BY_REPLICA} may wait"),
                    ),
                    "none",
                    "What the autoscaler reads. Over the limit, requests get 503 overloaded.",
                ),
                Panel(
                    "Connections",
                    (
                        (_of("vqa_connections"), f"{_BY_REPLICA} open"),
                        (_of("vqa_connections_limit"), f"{_BY_REPLICA} may be open"),
                    ),
                    "none",
                    "Over the limit, all but probes get 503.",
                ),
            ),
        ),
        (
            "What each adapter costs",
            (
                Panel(
                    "Share of the engine's work",
                    ((_named(f'adapter:vqa_cost:share5m{{job="manylens",{_ADAPTER}}}'), _BY_ADAPTER),),
                    "percentunit",
                    "By tokens, one of an answer counted as four of a prompt.",
                ),
                Panel(
                    "Requests by adapter",
                    ((_named(f"sum by (adapter) ({_rate('vqa_requests_total', _ADAPTER)})"), _BY_ADAPTER),),
                    "reqps",
                    "Requests for an adapter that is not there count as the base's.",
                ),
                Panel(
                    "Tokens by adapter",
                    (
                        (
                            _named(f"sum by (adapter, kind) ({_rate('vqa_tokens_total', _ADAPTER)})"),
                            "{{adapter}} {{kind}}",
                        ),
                    ),
                    "short",
                    "Per second: of prompts, of images, of answers.",
                ),
                Panel(
                    "Time to first token by adapter, p95",
                    ((_named(_quantile(0.95, "vqa_time_to_first_token_seconds", "adapter", _ADAPTER)), _BY_ADAPTER),),
                    "s",
                    "An adapter that is slow alone is being loaded again and again: see Loads a minute.",
                ),
                Panel(
                    "Share of failures by adapter",
                    ((_named(f'adapter:vqa_errors:ratio_rate5m{{job="manylens",{_ADAPTER}}}'), _BY_ADAPTER),),
                    "percentunit",
                    "By the service's fault, over 5 minutes.",
                ),
                Panel(
                    "Time per token, p95",
                    ((_named(_quantile(0.95, "vqa_time_per_output_token_seconds", "adapter", _ADAPTER)), _BY_ADAPTER),),
                    "s",
                    "After the first one.",
                ),
            ),
        ),
        (
            "Which versions answer, and how well",
            (
                Panel(
                    "Requests by release",
                    (
                        (
                            f"sum by (adapter, release) ({_rate('vqa_release_requests_total', _ADAPTER)})",
                            "{{adapter}} {{release}}",
                        ),
                    ),
                    "reqps",
                    "stable, canary (any other alias), or pinned to a digest.",
                ),
                Panel(
                    "Corrections that were not what was answered",
                    (
                        (
                            _named(f'adapter_release:vqa_feedback_wrong:ratio_rate30m{{job="manylens",{_ADAPTER}}}'),
                            "{{adapter}} {{release}}",
                        ),
                    ),
                    "percentunit",
                    "Of the right answers sent to /v1/feedback in 30 minutes. CanaryFailing compares it with stable's.",
                ),
                Panel(
                    "Score on held-out rows",
                    (
                        (
                            f"max by (adapter, of) ({_of('vqa_adapter_score', _ADAPTER)})",
                            "{{adapter}} {{of}}",
                        ),
                    ),
                    "percentunit",
                    "Of what is loaded, from the manifest: the adapter's and its base's on the same rows.",
                ),
                Panel(
                    "Versions that stable leads to",
                    (
                        (
                            f"count by (adapter) (count by (adapter, version) ({_of('vqa_adapter_stable', _ADAPTER)}))",
                            _BY_ADAPTER,
                        ),
                    ),
                    "none",
                    "More than one: replicas disagree.",
                ),
                Panel(
                    "Since the store was last read",
                    (
                        (f"time() - ({_of('vqa_store_seen_timestamp_seconds')} > 0)", _BY_REPLICA),
                        (f"10 * {_of('vqa_store_poll_seconds')}", f"{_BY_REPLICA} limit"),
                    ),
                    "s",
                    "StoreStale at the limit. What serves goes on serving meanwhile.",
                ),
                Panel(
                    "Kept as training data, by outcome",
                    ((f"sum by (outcome) ({_rate('vqa_captured_total')})", "{{outcome}}"),),
                    "reqps",
                    "Where --capture is on. failed and dropped are lost.",
                ),
            ),
        ),
    ),
)

ENGINE = Board(
    "manylens-engine",
    "Manylens: the engine",
    (
        (
            "Is it there",
            (
                Panel(
                    "Since the engine was last heard",
                    (
                        (f"time() - ({_of('vqa_engine_heard_timestamp_seconds')} > 0)", _BY_REPLICA),
                        (_of("vqa_engine_silence_limit_seconds"), f"{_BY_REPLICA} limit"),
                    ),
                    "s",
                    "Over the limit it is given up, and another is started.",
                ),
                Panel(
                    "Restarts in 30 minutes",
                    ((f"increase({_of('vqa_engine_restarts_total')}[30m])", _BY_REPLICA),),
                    "none",
                    "Two are a page: look for the reason in the log.",
                ),
                Panel(
                    "Memory of the gateway",
                    ((_of("process_resident_memory_bytes"), _BY_REPLICA),),
                    "bytes",
                    "Of the process that answers HTTP alone: the engine's are beside it.",
                ),
            ),
        ),
        (
            "What it works on",
            (
                Panel(
                    "Tokens a second",
                    (
                        (f"sum ({_rate('vllm:prompt_tokens_total')})", "read"),
                        (f"sum ({_rate('vllm:generation_tokens_total')})", "written"),
                    ),
                    "short",
                    "Of prompts read, and of answers written.",
                ),
                Panel(
                    "Sequences in the engine",
                    (
                        (_of("vllm:num_requests_running"), f"{_BY_REPLICA} run"),
                        (_of("vllm:num_requests_waiting"), f"{_BY_REPLICA} wait"),
                    ),
                    "none",
                    "The gateway admits as many as it should: what waits, waits there, on the other dashboard.",
                ),
                Panel(
                    "KV cache in use",
                    ((_of("vllm:kv_cache_usage_perc"), _BY_REPLICA),),
                    "percentunit",
                    "Full with answers pushed out (next panel) is too small: more replicas, or --max-num-seqs lower.",
                ),
                Panel(
                    "Answers pushed out of the cache",
                    ((_rate("vllm:num_preemptions_total"), _BY_REPLICA),),
                    "short",
                    "Per second; each is begun anew.",
                ),
                Panel(
                    "Prompts found in the cache",
                    (
                        (
                            f"sum ({_rate('vllm:prefix_cache_hits_total')})"
                            f" / (sum ({_rate('vllm:prefix_cache_queries_total')}) > 0)",
                            "share of tokens",
                        ),
                    ),
                    "percentunit",
                    "The same image and the same beginning of a question are read once.",
                ),
                Panel(
                    "Time per token, as the engine sees it, p95",
                    ((_quantile(0.95, "vllm:inter_token_latency_seconds"), "p95"),),
                    "s",
                    "Beside the gateway's on the other dashboard: the difference is the gateway's.",
                ),
            ),
        ),
        (
            "Adapters in it",
            (
                Panel(
                    "Versions loaded",
                    (
                        (f"count by (instance) ({_of('vqa_adapter_resident')})", f"{_BY_REPLICA} loaded"),
                        (_of("vqa_adapter_resident_limit"), f"{_BY_REPLICA} room"),
                    ),
                    "none",
                    "Room is --max-cpu-loras.",
                ),
                Panel(
                    "Loads a minute",
                    ((f"60 * {_rate('vqa_adapter_load_seconds_count')}", _BY_REPLICA),),
                    "none",
                    "Over the room there is, adapters push each other out: AdapterThrash.",
                ),
                Panel(
                    "Time to load and prove an adapter",
                    _quantiles("vqa_adapter_load_seconds"),
                    "s",
                    "The first question to an adapter that is not loaded waits for this.",
                ),
                Panel(
                    "Versions refused and failed, in 15 minutes",
                    (
                        (
                            f"sum by (reason) ({_news('vqa_adapter_rejected_total')})",
                            "refused: {{reason}}",
                        ),
                        (f"sum by (reason) ({_news('vqa_adapter_failed_total')})", "failed: {{reason}}"),
                    ),
                    "none",
                    "Refused is final until the files change; failed is tried again.",
                ),
            ),
        ),
        (
            "Images",
            (
                Panel(
                    "Time of image work, p95",
                    ((_quantile(0.95, "vqa_image_seconds", "stage"), "{{stage}}"),),
                    "s",
                    "fetch: from a URL. prepare: decoded and scaled.",
                ),
                Panel(
                    "Bytes in hand",
                    ((_of("vqa_bytes_in_hand"), _BY_REPLICA),),
                    "bytes",
                    "Bodies and fetched images of requests that are under way.",
                ),
            ),
        ),
    ),
)
