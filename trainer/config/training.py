"""Options of `train`, `base align` and `base tune`."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import CliSubCommand

from service.adapters.aliases import AliasName
from service.embedded import embedded
from trainer.config.fields import (
    BLIND_ROWS,
    CANARY,
    GATE,
    LINEARS,
    MAX_TOKENS,
    BlindRows,
    Canary,
    Configured,
    Expression,
    Gate,
    Linear,
    Listed,
    MaxTokens,
    Options,
    Rank,
    Seed,
)
from trainer.config.reading import ReadingOptions


class LoopOptions(Configured, ReadingOptions):
    """Options of every training, of an adapter or of a base."""

    headings: ClassVar[dict[str, str]] = {
        "data": "the rows",
        "epochs": "how it learns",
        "feature_cache": "what it takes of the machine",
        "plan": "the run",
    }

    data: Listed = Field(
        min_length=1,
        description="training rows, a path or URL: LLaVA's, {image, question, answer}, or another form of"
        " docs/reference/data-forms.md; several sets are trained on together where --data is given several times",
    )
    images: Listed = Field(
        [""],
        min_length=1,
        description="the folder, a path or URL, that the rows' image names are relative to; of several sets one for"
        " all, or one for each in their order [the rows are text alone]",
    )
    eval_data: str | None = Field(
        None,
        description="held-out rows, named relative to the first --images; without it a share of the images is held out",
    )
    holdout: float = Field(0.1, gt=0, lt=1, description="share of the images held out, by seed")

    epochs: float = Field(3.0, gt=0, description="passes over the training rows")
    max_steps: int | None = Field(None, gt=0, description="end after so many updates, whatever --epochs says")
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate; small models want more")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the rate rises to its peak")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the rate falls from its peak to 0 behind the warmup; constant: it stays"
    )
    weight_decay: float = Field(0.0, ge=0, description="of the weights that learn, times the rate in every update")
    clip: float = Field(1.0, ge=0, description="longest gradient, by its norm; longer ones are shortened; 0: never")
    optimizer: Literal["adamw", "adamw-8bit", "muon"] = Field(
        "adamw",
        description="adamw-8bit: a quarter of its memory, on a GPU, by bitsandbytes; muon: steps of the same size in"
        " all directions of a matrix, by which a small base learns new facts in fewer steps; it needs whole matrices,"
        " so for LoRA alone and not under DeepSpeed or FSDP",
    )
    rows_per_step: int = Field(64, gt=0, description="rows whose gradients make one update, of all devices together")
    tokens: int | None = Field(
        None,
        gt=0,
        description="tokens that go through a device at once: the one number that bounds its memory; an update takes"
        " as many such passes as its rows need [what fits, 8192 at most]",
    )
    patience: int | None = Field(
        None,
        gt=0,
        description="stop after so many checkpoints, one an epoch or every --save-steps, without a lower held-out loss;"
        " the best is kept",
    )
    feature_cache: Path = Field(
        Path("runs/features"),
        description="where the tower's states of images are kept for other runs, 2 bytes x tokens x tower's hidden size"
        " an image (1.2 MB at LLaVA-1.5's size)",
    )
    feature_cache_gb: float | None = Field(
        None, gt=0, description="gigabytes that the feature cache may take [all that is free]"
    )
    no_feature_cache: bool = Field(False, description="keep no features: the tower runs in each step")
    text_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of each update's rows that are text alone: an epoch has each row with an image once, and as"
        " many text rows as the share needs, each about equally often over the epochs [as the rows are]",
    )
    group_by_modality: bool = Field(
        False, description="an update has images or text alone, as LLaVA groups them; on by default for base tune"
    )
    workers: int = Field(0, ge=0, description="processes that gather the next steps' data; 0: the training does it")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of matrix products; auto: bfloat16 where the machine has it"
    )
    gradient_checkpointing: bool = Field(
        False,
        description="compute activations twice to hold fewer in memory; chosen anyway where they would not fit",
    )
    plan: bool = Field(
        False, description="say what the training takes in memory, how many updates and how long, and end"
    )
    save_steps: int | None = Field(None, gt=0, description="keep a checkpoint every so many steps [every epoch]")
    log_steps: int = Field(1, gt=0, description="steps that make a point of the loss curve")
    track: tuple[Literal["tensorboard", "wandb"], ...] = Field((), description="also log to these")
    seed: Seed = Field(0, description="of the split, the initial weights and the order")
    score_rows: int = Field(
        2000,
        gt=0,
        description="held-out questions asked and measured, of each category its share; of 2000 the share right is"
        " known to about 2 points",
    )
    resume: bool = Field(
        False,
        description="go on from the run's last complete checkpoint, as if never stopped; data and options that shape"
        " the weights have to be the run's, and others are refused by name",
    )

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.images) not in (1, len(self.data)):
            raise ValueError(
                f"--images: {len(self.data)} sets are named by --data and {len(self.images)} folders: give one for all,"
                " or one for each"
            )
        return self

    @model_validator(mode="after")
    def _installed(self) -> Self:
        asked: dict[str, str] = {f"--track {name}": name for name in self.track}
        if self.optimizer == "adamw-8bit":
            asked["--optimizer adamw-8bit"] = "bitsandbytes"
        if getattr(self, "nf4", False):
            asked["--nf4"] = "bitsandbytes"
        for option, package in asked.items():
            if find_spec(package) is None:
                raise ValueError(f"{option}: needs a package that is not installed: {package}")
        return self

    @property
    def sets(self) -> list[tuple[str, str]]:
        """Pairs of a file of rows and the folder of its images, one for each --data."""
        folders = self.images if len(self.images) == len(self.data) else self.images * len(self.data)
        return list(zip(self.data, folders, strict=True))

    @property
    def decided(self) -> dict[str, Any]:
        """The values of options whose defaults depend on other options, by name: as given, or as the others decide."""
        return {}


class TrainOptions(LoopOptions):
    """Train a LoRA adapter from questions about images, score it against its base, and publish it to a store."""

    headings: ClassVar[dict[str, str]] = {
        "name": "the adapter",
        **LoopOptions.headings,
        "recipe": "LoRA",
        "method": "from pairs of answers",
        "gate": "before it is published",
    }
    examples: ClassVar[tuple[str, ...]] = (
        "python -m trainer train --name meters --data rows.jsonl --images photos",
        "python -m trainer train --name meters --data rows.jsonl --images photos --plan",
        "python -m trainer train --name meters --data rows.jsonl --images photos --recipe domain",
        "python -m trainer train --name meters --data rows.jsonl --images photos --rank 64 --epochs 5 --resume",
        "python -m trainer train --name meters --data pairs.jsonl --images photos --method dpo --init-adapter meters",
    )
    # A bad name would otherwise be found when hours of training are to be published.
    name: AliasName = Field(description="the adapter's name: what a question's `adapter` will say")
    about: str = Field("", description="what it is for and what it is not, for its card and GET /v1/adapters")
    store: Path = Field(Path("adapters"), description="the adapter store to publish into")
    model: str = Field(embedded("tiny-llava"), description="base checkpoint: a directory, or a Hugging Face id")
    output: Path | None = Field(None, description="where the run keeps its log and checkpoints [runs/NAME]")
    modality: Literal["image", "text", "any"] = Field("any", description="which questions the adapter is meant for")

    recipe: str | None = Field(
        None,
        description="options as somebody's study or practice has them (`python -m trainer recipes` prints them); those"
        " given here and in --config come first",
    )
    experts: Literal["none", "mixture", "lavin", "two-up"] = Field(
        "none",
        description="mixture: two experts that share a down-projection, mixed by whether a question has an image, and"
        " compiled to one LoRA for each; lavin: LaVIN's form of it, one correction before q, k and v; two-up: an expert"
        " for each, unmixed",
    )
    temperature: float = Field(10.0, gt=0, description="of a mixture: of the softmax over its experts (LaVIN's 10)")
    table_rate: float | None = Field(
        None,
        gt=0,
        description="of a mixture: learning rate of the tables of experts [--learning-rate x --temperature, by which"
        " their softmax moves as far in an update as any other weight]",
    )
    rank: Rank = Field(16, description="LoRA rank; over 64 little is gained (recipe scaling-study)")
    alpha: float | None = Field(None, gt=0, description="LoRA alpha [2 x rank]")
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) instead of alpha / rank (rsLoRA)")
    rank_pattern: dict[Expression, Rank] = Field(
        default_factory=dict,
        description="other ranks for modules whose name ends as a regular expression says, as layers.0.*=32",
    )
    alpha_pattern: dict[Expression, float] = Field(default_factory=dict, description="other alphas, likewise")
    nf4: bool = Field(
        False,
        description="hold the base's language model in 4-bit NormalFloat (QLoRA): least memory, not what serves;"
        " an INT4 checkpoint as --model trains on the very values that serve",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout")
    targets: tuple[Linear, ...] = Field(
        LINEARS, min_length=1, description="linears of each layer that learn, as q_proj,v_proj [all seven]"
    )
    init_adapter: str | None = Field(
        None,
        description="go on from this adapter on new data: one of the store, a run, or a directory of PEFT's files; its"
        " rank, alpha and targets stay",
    )
    method: Literal["sft", "dpo", "orpo", "simpo"] = Field(
        "sft",
        description="sft learns answers; the others learn from pairs {question, chosen, rejected} to prefer the chosen:"
        " dpo measured from the model before training (docs/how-to/training.md), orpo and simpo"
        " without it",
    )
    beta: float | None = Field(
        None,
        gt=0,
        description="dpo: how close it stays to what it was, a higher one closer; orpo: weight of the preference beside"
        " the likelihood; simpo: scale of the margin [0.1 of dpo and orpo, 2 of simpo]",
    )
    gamma: float = Field(1.0, ge=0, description="simpo: the margin to reach, of scaled log-probabilities a token")
    sft_weight: float = Field(
        0.0, ge=0, description="dpo and simpo: the chosen answer's loss a token, times this, is added to a pair's loss"
    )
    gate: Gate = Field("auto", description=GATE)
    canary: Canary = Field(None, description=CANARY)
    max_tokens: MaxTokens | None = Field(None, description=MAX_TOKENS)
    blind_rows: BlindRows = Field(200, description=BLIND_ROWS)

    @model_validator(mode="after")
    def _of_method(self) -> Self:
        """Refuse an option that the chosen --method does not use."""
        of: dict[str, tuple[str, ...]] = {
            "beta": ("dpo", "orpo", "simpo"),
            "gamma": ("simpo",),
            "sft_weight": ("dpo", "simpo"),
        }
        for name, methods in of.items():
            if self.method not in methods and getattr(self, name) != type(self).model_fields[name].default:
                option = name.replace("_", "-")
                raise ValueError(
                    f"--{option}: is of --method {' and '.join(methods)}, and this is {self.method}: leave"
                    f" --{option} out"
                )
        if self.method == "sft" and self.gate == "preference":
            raise ValueError("--gate preference: is of pairs of answers, which --method dpo learns from")
        return self

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        """Refuse options of a LoRA's shape beside --init-adapter, whose adapter keeps its own."""
        for name in ("rank", "alpha", "rslora", "rank_pattern", "alpha_pattern", "targets", "dropout"):
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if self.init_adapter is not None and getattr(self, name) != default:
                option = name.replace("_", "-")
                raise ValueError(f"--{option}: the adapter of --init-adapter keeps its own: leave --{option} out")
        return self

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        """Refuse beside --experts what could not be compiled to plain LoRAs."""
        if self.experts == "none":
            return self
        if self.method != "sft":
            raise ValueError(
                f"--experts {self.experts}: learns from right answers, and --method {self.method} from pairs"
            )
        if self.optimizer != "adamw":
            raise ValueError(f"--optimizer {self.optimizer}: a mixture's tables have a rate of their own, by adamw")
        for name in ("rslora", "rank_pattern", "alpha_pattern", "init_adapter"):
            if getattr(self, name):
                option = name.replace("_", "-")
                raise ValueError(f"--{option}: does not go with --experts {self.experts}")
        if self.group_by_modality and self.text_share:
            raise ValueError("--group-by-modality: keeps apart what --text-share mixes: leave one of them out")
        if self.experts == "lavin" and self.nf4:
            raise ValueError(
                "--nf4: the lavin form compiles into the weights that serve, and NF4 serves nowhere: train on the INT4"
                " or bf16 checkpoint"
            )
        return self

    @property
    def rate_of_tables(self) -> float | None:
        """The learning rate of a mixture's tables, --table-rate or its default; None: no tables learn."""
        if self.experts not in ("mixture", "lavin"):
            return None
        return self.table_rate or self.learning_rate * self.temperature

    @property
    def strength(self) -> float:
        """--beta, or where it is not given the default of --method."""
        return self.beta or (2.0 if self.method == "simpo" else 0.1)

    @property
    def lora_alpha(self) -> float:
        """--alpha, or where it is not given twice the rank."""
        return self.alpha or 2 * self.rank

    @property
    def decided(self) -> dict[str, Any]:
        """See `LoopOptions`."""
        found: dict[str, Any] = {"alpha": self.lora_alpha, "table_rate": self.rate_of_tables}
        return found if self.method == "sft" else {**found, "beta": self.strength}

    @property
    def largest_rank(self) -> int:
        """The largest of --rank and --rank-pattern: the rank that a service has to allow."""
        return max([self.rank, *self.rank_pattern.values()])


class StageOptions(LoopOptions):
    """What both stages of a base's training have; defaults by stage are LLaVA-1.5's.

    Liu et al., "Improved Baselines with Visual Instruction Tuning", CVPR 2024: one epoch and a cosine schedule each.
    """

    headings: ClassVar[dict[str, str]] = {"model": "the checkpoints", **LoopOptions.headings}
    stage: ClassVar[str]
    learns: ClassVar[tuple[str, ...]]
    written: ClassVar[Literal["asked", "plain"]] = "asked"
    model: str = Field(description="checkpoint to begin with, not INT4: a directory, or a Hugging Face id")
    output: Path = Field(
        description="a new directory for the trained checkpoint; the run keeps its log and checkpoints in runs/NAME"
    )
    epochs: float = Field(1.0, gt=0, description="passes over the training rows")
    optimizer: Literal["adamw", "adamw-8bit"] = Field(
        "adamw", description="adamw-8bit: a quarter of its memory, on a GPU, by bitsandbytes"
    )


class AlignOptions(StageOptions):
    """Stage 1: the projector alone learns, from captions of images in LLaVA's plain form, image and caption alone."""

    stage = "align"
    learns = ("multi_modal_projector",)
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate")
    written = "plain"
    rows_per_step: int = Field(256, gt=0, description="rows whose gradients make one update, of all devices together")


class TuneOptions(StageOptions):
    """Stage 2: projector and language model learn to follow instructions; the tower stays as it is."""

    stage = "tune"
    learns = ("multi_modal_projector", "language_model", "lm_head")
    learning_rate: float = Field(2e-5, gt=0, description="peak learning rate")
    rows_per_step: int = Field(128, gt=0, description="rows whose gradients make one update, of all devices together")
    group_by_modality: bool = Field(True, description="an update has images or text alone, as LLaVA groups them")


class BaseOptions(Options):
    """Train a base checkpoint, which adapters are then made for, in LLaVA's two stages."""

    align: CliSubCommand[AlignOptions] = Field(description="stage 1: the projector, from captions")
    tune: CliSubCommand[TuneOptions] = Field(description="stage 2: projector and language model, from instructions")
