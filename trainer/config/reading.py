"""How rows are read: --form, --strict, --ignore, --columns and the like."""

from typing import Literal, get_args

from pydantic import Field

from trainer.config.fields import Listed, Options

Form = Literal[
    "auto",
    "llava",
    "flat",
    "messages",
    "alpaca",
    "captions",
    "pairs",
    "feedback",
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


class ReadingOptions(Options):
    """How rows are read, of every command that reads some."""

    form: Form = Field(
        "auto",
        description="what the rows are; auto tells by the file's beginning, and says by what"
        " (docs/reference/data-forms.md)",
    )
    strict: bool = Field(
        False,
        description="refuse rows that are understood in another way than they are written, instead of counting them",
    )
    ignore: Listed = Field([], description="a key of the rows that need not be understood; may be given several times")
    columns: dict[str, str] = Field(
        {}, description="where a field has a name of your own: FIELD=KEY, question=frage,answer=antwort say"
    )
    annotations: str | None = Field(
        None, description="of VQAv2's form: the file with the answers [the one beside the questions]"
    )
    split: str | None = Field(None, description="of Hugging Face's sets: the split to read [all, each a category]")
