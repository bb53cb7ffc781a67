"""The schema of `manifest.json`, which the trainer writes beside an adapter and the service checks before it serves."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.adapters.base import Base
from service.images import Preparation

FILE = "manifest.json"
# The longest answer to a probe.
PROBE_TOKENS = 32


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_Frozen):
    """Numbers of right answers of the adapter and of its base to the same `rows` held-out questions."""

    rows: int
    base: int
    adapter: int

    @property
    def shares(self) -> dict[str, float]:
        """Shares of right answers, 0 to 1, of "base" and "adapter"; empty where there were no rows."""
        return {"base": self.base / self.rows, "adapter": self.adapter / self.rows} if self.rows else {}


class Gate(_Frozen):
    """The measure by which the adapter was found better than its base on held-out rows: a metric or the loss."""

    metric: str = Field(description="a metric of trainer/metrics.py, or `loss`: nats a token, lower is better")
    base: float
    adapter: float


class Probe(_Frozen):
    """One held-out question that the adapter answers otherwise than its base; asked again before a version serves."""

    question: str
    image_png: str | None = Field(description="base64 of the prepared picture, or null for a text question")
    base_answer: str
    adapter_answer: str
    tokens: int = Field(
        PROBE_TOKENS,
        gt=0,
        le=PROBE_TOKENS,
        description="most tokens of the answer when it was recorded, and when the probe is asked",
    )


class Facts(_Frozen):
    """The fields of a manifest other than its probes."""

    format: Literal[1, 2] = Field(1, description="2: a mixture, with a member for each modality; 1: one LoRA")
    name: str
    about: str = Field("", description="what it is for, in its maker's words")
    created: str = Field(description="UTC, ISO 8601")
    trainer: str = Field(description="what made it, with its version")
    base_id: str
    base_digest: str
    base_precision: str = Field(description="precision of the base it was trained on")
    prompt_digest: str
    preparation: dict[str, object] = Field(description="how pictures were prepared: see service.images.Preparation")
    rank: int
    alpha: float
    targets: str = Field(description="PEFT's target_modules")
    modality: Literal["image", "text", "any"] = "any"
    data_digest: str = Field(description="SHA-256 over the training rows and images, in order")
    score: Score
    categories: dict[str, Score] = Field(default_factory=dict)
    gate: Gate | None = Field(None, description="why it was published; null where no rows were asked")
    begun_from: str = Field("", description="the adapter that its training went on from, and what that was trained on")


class Manifest(Facts):
    """`manifest.json` of an adapter version."""

    probes: tuple[Probe, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_member_is_probed(self) -> Self:
        if self.format == 2 and len({probe.image_png is None for probe in self.probes}) < 2:
            raise ValueError("a mixture has probes with a picture and without one, for each of its members is proven")
        return self

    @property
    def facts(self) -> Facts:
        """The manifest without its probes, which are large and needed only until the version is proven."""
        return Facts.model_validate(self.model_dump(exclude={"probes"}))


def preparation_facts(preparation: Preparation) -> dict[str, object]:
    """`preparation` as a manifest records it."""
    return {"size": preparation.size, "colour": list(preparation.colour), "method": preparation.method}


def mismatch(manifest: Manifest, base: Base, prompt_digest: str, preparation: Preparation) -> str | None:
    """How the base, prompt or image preparation that an adapter was made for differ from these; None: they do not."""
    if manifest.base_digest != base.digest:
        theirs, ours = f"{manifest.base_id} ({manifest.base_digest[:12]})", f"{base.id} ({base.digest[:12]})"
        return f"it was trained on base {theirs}, we run {ours}"
    if manifest.prompt_digest != prompt_digest:
        return f"it was trained with prompt {manifest.prompt_digest[:12]}, we run {prompt_digest[:12]}"
    if manifest.preparation != preparation_facts(preparation):
        return (
            f"it was trained on pictures prepared as {manifest.preparation}, ours are {preparation_facts(preparation)}"
        )
    return None
