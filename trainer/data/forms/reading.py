"""How rows are to be read: what the options --form, --strict, --ignore, --columns and the like say."""

from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

Form = Literal[
    "auto",
    "llava",
    "flat",
    "messages",
    "alpaca",
    "captions",
    "vqa",
    "a-okvqa",
    "vizwiz",
    "gqa",
    "visual-genome",
    "textvqa",
    "docvqa",
    "vqa-rad",
    "slake",
    "chartqa",
    "scienceqa",
    "coco-captions",
    "csv",
    "label-studio",
    "roboflow",
    "huggingface",
    "webdataset",
]
FORMS: tuple[Form, ...] = get_args(Form)


class ReadingOptions(Protocol):
    """The options of any command that reads rows."""

    @property
    def form(self) -> Form:
        """What the set is said to be."""
        ...

    @property
    def strict(self) -> bool:
        """Whether mendings are faults."""
        ...

    @property
    def ignore(self) -> list[str]:
        """Keys that need not be understood."""
        ...

    @property
    def columns(self) -> dict[str, str]:
        """Keys by the fields they hold."""
        ...

    @property
    def annotations(self) -> str | None:
        """The file of answers."""
        ...

    @property
    def split(self) -> str | None:
        """The split to read."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """`form` is what the file is said to be, auto: found out. `strict` makes every mending a fault.

    `ignore` are keys that need not be understood. `columns` is by field of a row the key that holds it.
    `annotations` is the file of answers of VQAv2's form. `split` is the one to read of a set that has several.
    """

    form: Form = "auto"
    strict: bool = False
    ignore: frozenset[str] = frozenset()
    columns: dict[str, str] = field(default_factory=dict)
    annotations: str | None = None
    split: str | None = None

    @classmethod
    def of(cls, options: ReadingOptions) -> "Reading":
        """What a command's options say."""
        return cls(
            options.form,
            options.strict,
            frozenset(options.ignore),
            dict(options.columns),
            options.annotations,
            options.split,
        )


AUTO = Reading()
