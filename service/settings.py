"""Every option of the service, declared once: environment (VQA_*), command line and --help come from this class.

Nothing else reads VQA_*. A bad value is an error at start that names its option.
"""

import importlib.util
import tempfile
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from fsspec.registry import get_filesystem_class
from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BeforeValidator,
    Field,
    FilePath,
    ImportString,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.embedded import embedded

# The ranks vLLM has kernels for; the environment gives text, which a Literal of numbers would not take.
Rank = Annotated[Literal[1, 8, 16, 32, 64, 128, 256, 320, 512], BeforeValidator(int)]
# A name or an address; not a URL, which would match no host and shut out all.
_Host = Annotated[str, Field(pattern=r"^([A-Za-z0-9_.-]+|[0-9a-f:]+)$")]


def _known(where: object) -> str:
    text = str(where)
    if "://" in text:
        try:
            get_filesystem_class(text.partition("://")[0])
        except ImportError as error:  # which names the package that is missing
            raise ValueError(str(error)) from error
    return text


_Store = Annotated[str, BeforeValidator(_known)]


def _reachable_by_redis(url: str) -> str:
    if importlib.util.find_spec("redis") is None:
        raise ValueError("the package redis is missing: install manylens[redis]")
    return url


_Redis = Annotated[str, Field(pattern=r"^rediss?://.+"), AfterValidator(_reachable_by_redis)]


class Settings(BaseSettings):
    """Serve one LLaVA and its adapters over HTTP. Each option can also be set in the environment as VQA_<OPTION>."""

    headings: ClassVar[dict[str, str]] = {
        "model": "the model and its adapters",
        "host": "the address",
        "anonymous": "who may ask, and how often",
        "log_level": "logs and traces",
        "request_s": "what a request may cost",
        "in_flight": "how many at once, and for how long",
        "capture": "keeping questions and answers",
        "engine_canary_s": "the engine: vLLM",
    }
    examples: ClassVar[tuple[str, ...]] = (
        "python -m service",
        "python -m service --model models/llava-int4 --adapters adapters --host 0.0.0.0 --keys keys.json",
        "python -m service --engine-args '{\"enforce_eager\": true}'",
    )
    model_config = SettingsConfigDict(
        env_prefix="VQA_",
        frozen=True,
        extra="forbid",
        cli_parse_args=False,
        cli_kebab_case=True,
        cli_exit_on_error=False,
        nested_model_default_partial_update=True,
    )

    model: str = Field(embedded("tiny-llava-int4"), description="base checkpoint: a directory, or a Hugging Face id")
    adapters: _Store = Field(
        embedded("adapters"),
        description="the adapter store that the trainer publishes into: a directory or an fsspec URL",
    )
    adapters_cache: Path = Field(
        Path(tempfile.gettempdir()) / "manylens-adapters",
        description="where versions of a store at a URL are copied, and verdicts on versions kept; services that run "
        "at once may share it, each has a directory of its own in it",
    )
    adapters_cache_bytes: int = Field(
        20_000_000_000, gt=0, description="bytes the copies may take; those used longest ago go first"
    )
    adapters_poll_s: float = Field(2.0, gt=0, description="seconds between two looks at the adapter store")
    adapters_unproven: bool = Field(
        False, description="serve adapters without a manifest too, marked unproven; their tensors are still checked"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="path below which a proxy serves this, as /vqa; it may strip it",
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description='origins whose pages may call this service from a browser, as JSON: ["https://app.example.com"] or '
        '["*"]; none named: none',
    )
    metrics_port: int | None = Field(
        None, gt=0, le=65535, description="port for /metrics alone, every adapter named; keep it from callers"
    )
    metrics_named: bool = Field(
        False,
        description="name every adapter on the main port's /metrics too, to anyone: for a router that reads it where "
        "callers cannot",
    )
    anonymous: bool = Field(False, description="serve without keys on an address that others can reach")
    keys: FilePath | None = Field(
        None,
        validate_default=True,
        description="file of tenants and the digests of their keys (service/auth.py has its form), followed as it "
        "changes; without one there are no keys, which only a loopback host or --anonymous true allows",
    )
    rates_redis: _Redis | None = Field(
        None,
        description="Redis in which replicas count tenants' rates and requests at once together, as "
        "redis://host:6379/0; while it fails, and without one, each replica counts by itself; needs the extra `redis`",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log line printed")
    log_format: Literal["text", "json"] = Field("text", description="log lines for people, or for programs")
    otlp: AnyHttpUrl | None = Field(
        None, description="where traces are sent, as http://collector:4318/v1/traces; needs the extra `tracing`"
    )

    request_s: float = Field(
        10.0, gt=0, description="seconds a request may take to come, and one more for each 64 KiB of its body"
    )
    connections: int = Field(
        800, gt=0, description="connections open at once; requests over more than that get 503, except for probes"
    )
    body_limit: int = Field(20_000_000, gt=0, description="largest request body, and largest fetched image, in bytes")
    bytes_in_hand: int = Field(
        0,
        ge=0,
        description="bytes of bodies and fetched images held at once; others wait, then get 503 [1/8 of memory]",
    )
    image_pixels: int = Field(50_000_000, gt=0, description="largest image, in pixels, judged before decoding")
    image_memory: int = Field(
        512_000_000,
        gt=0,
        description="bytes that decoding one image may take, told from its header; "
        "docs/reference/images.md says what kinds take",
    )
    images_per_question: int = Field(4, ge=1, le=64, description="most images of one question")
    image_url_s: float = Field(10.0, gt=0, description="seconds an image's URL has to deliver, redirects included")
    fetches: int = Field(
        32, gt=0, description="questions whose images are fetched at once, before they take one of --in-flight's slots"
    )
    image_url_hosts: tuple[_Host, ...] = Field(
        (), description='hosts that images are fetched from, as JSON: ["cdn.example.com"]; none named: any public host'
    )
    image_url_private: bool = Field(
        False, description="fetch images from loopback and private networks too: for closed clusters only"
    )
    image_url_contact: str | None = Field(
        None,
        pattern=r"^[!-'*-~]{1,200}$",
        description="address or page of who runs this service, told to hosts of images in the User-Agent",
    )
    image_workers: int = Field(
        0, ge=0, description="threads that decode images, each with --image-memory at most; 0: one per core"
    )
    in_flight: int = Field(64, gt=0, description="requests worked on at once, each in a slot")
    waiting: int = Field(256, ge=0, description="requests that may wait for a slot; more get 503")
    batch_questions: int = Field(64, ge=1, le=1024, description="most questions of one batch, each of them a request")
    deadline_s: float | None = Field(
        None,
        gt=0,
        description="seconds a request may take when it does not say [30, or twice what an answer is measured to take]",
    )

    lame_duck_s: float = Field(
        5.0,
        ge=0,
        description="seconds after SIGTERM in which questions are still answered while /readyz fails, so that a load"
        " balancer sees it in time; Ctrl-C skips them",
    )
    drain_s: float = Field(
        60.0, ge=0, description="seconds after that in which what is under way may end; then it gets 503"
    )

    capture: Path | None = Field(
        None, description="directory in which questions, images, answers and corrections are kept as training data"
    )
    capture_days: int = Field(30, gt=0, description="days that they are kept")
    capture_bytes: int = Field(10_000_000_000, gt=0, description="bytes they may take; the oldest days go first")
    capture_share: float = Field(
        1.0, ge=0, le=1, description="share of the answers that are kept, by chance: a canary is judged by these alone"
    )
    capture_below: float | None = Field(
        None, gt=0, le=1, description="keep others too whose confidence is lower than this: the most useful to train on"
    )
    capture_a_day: int | None = Field(
        None, gt=0, description="answers that each replica keeps a day (UTC), at most; corrections of them are all kept"
    )
    capture_redact: ImportString[Any] | None = Field(
        None, description="package.module.function that gets each service.capture.Record, and returns what may be kept"
    )

    engine_canary_s: float = Field(
        10.0, gt=0, description="seconds without a sign of life from the engine after which it is asked for one token"
    )
    engine_canary_deadline_s: float | None = Field(
        None,
        gt=0,
        description="seconds it has for that; one that takes longer is taken to hang, and is started again [30, or four"
        " times what a first token is measured to take]",
    )
    engine_lost_s: float = Field(
        600.0, gt=0, description="seconds in which a lost engine may be started again before /healthz fails"
    )
    max_loras: int | None = Field(
        None, gt=0, description="adapters that may share one batch (the engine's adapter slots) [4, or as many as fit]"
    )
    max_cpu_loras: int | None = Field(
        None,
        gt=0,
        description="adapters loaded at once, in host memory; others are loaded once they are asked [256, or what"
        " --adapters-host-bytes holds]",
    )
    adapters_host_bytes: int | None = Field(
        None, gt=0, description="host memory for loaded adapters, in bytes, at the largest rank [half of what is free]"
    )
    max_lora_rank: Rank = Field(64, description="largest adapter rank")
    max_model_len: int | None = Field(
        None, gt=0, description="context in tokens [the model's own, or as much of it as fits]"
    )
    max_num_seqs: int = Field(64, gt=0, description="sequences in one batch of the engine")
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="share of GPU memory for weights and KV cache [0.9, less what others use]"
    )
    cpu_kv_cache_gib: float | None = Field(
        None, gt=0, description="KV cache on a machine without a GPU, in GiB [from the model and what is free]"
    )
    engine_args: dict[str, Any] = Field(
        default_factory=dict,
        description='any other engine argument of vLLM, as JSON: {"tensor_parallel_size": 2}',
    )

    @field_validator("keys")
    @classmethod
    def _keys_where_others_reach(cls, keys: Path | None, info: ValidationInfo) -> Path | None:
        host = info.data.get("host", "")
        if keys is None and not info.data.get("anonymous") and not loopback(host):
            raise ValueError(f"others can reach {host}: name a file of keys, or say --anonymous true to serve them all")
        return keys

    @field_validator("bytes_in_hand")
    @classmethod
    def _room_for_one_body(cls, count: int, info: ValidationInfo) -> int:
        if 0 < count < (limit := info.data.get("body_limit", 0)):
            raise ValueError(f"less than one body may have, which is {limit:,} (--body-limit)")
        return count


def loopback(host: str) -> bool:
    """Whether `host` is a loopback address or localhost, which other machines cannot reach."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
