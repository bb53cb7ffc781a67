"""Every option of the `data` commands, declared once."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import CliSubCommand

from service.embedded import embedded
from trainer.config.fields import Options, Seed
from trainer.config.reading import ReadingOptions

Kind = Literal["pie", "funnel", "bar", "grouped", "line", "scatter"]
QuestionKind = Literal["value", "compare", "sum", "extreme", "trend", "count"]
Refer = Literal["name", "place"]
KINDS: tuple[Kind, ...] = ("pie", "funnel", "bar", "grouped", "line", "scatter")
QUESTION_KINDS: tuple[QuestionKind, ...] = ("value", "compare", "sum", "extreme", "trend", "count")


class RowsOptions(ReadingOptions):
    """Options of a command over one set."""

    data: str = Field(
        description="rows, a path or URL: LLaVA, {image, question, answer}, or any form of docs/reference/data-forms.md"
    )
    images: str = Field(
        "",
        description="the folder, a path or URL, that the rows' image names are relative to [the rows are text alone]",
    )


class _Kept(Options):
    index: Path | None = Field(
        Path("runs/features"),
        description="where what is found out about images is kept, so that each is read once for all commands; None:"
        " nowhere",
    )


class _Looked(RowsOptions, _Kept):
    pass


class CheckOptions(_Looked):
    """Read every line and decode every image; name all faults as file:line: fault, or say what the set holds."""

    max_text: int = Field(2000, gt=0, description="characters a question or an answer may have")


class _Judged(_Looked):
    output: str = Field(description="the JSON lines file to write, a path or URL; image names stay as they are")


# How far two copies of an image may differ: bits of the perceptual hash, and steps of colour, of 255, at 16x16 pixels.
DISTANCE, TOLERANCE = 6, 24


class DedupeOptions(_Judged):
    """Drop questions asked twice of images that look the same; those images become one, so no split parts them."""

    distance: int = Field(
        DISTANCE, ge=0, le=64, description="bits of the 64-bit perceptual hash in which copies may differ"
    )
    tolerance: int = Field(
        TOLERANCE, ge=0, le=255, description="colour steps, of 255, by which copies may differ anywhere at 16x16 pixels"
    )
    model: str | None = Field(
        None,
        description="a CLIP or LLaVA checkpoint, by whose embeddings cropped and recoloured copies are found as well",
    )
    similarity: float = Field(
        0.97,
        gt=0,
        le=1,
        description="with --model: images whose embeddings have this cosine or more are the same; the command"
        " says how near images of the set are",
    )


class ReportOptions(_Judged):
    """Write one HTML page of what a set holds: counts, answers and the score of guessing, lengths, pictures, copies."""

    output: str = Field("report.html", description="the page to write, a path or URL")
    held_out: str | None = Field(None, description="the held-out rows of the set: what they share with --data is told")
    model: str = Field(
        embedded("tiny-llava"), description="the base whose tokens are counted: a directory, or a Hugging Face id"
    )
    pictures: int = Field(96, ge=0, le=1000, description="pictures to show, a page of 24 at a time; drawn by --seed")
    seed: Seed = Field(0, description="another seed shows other pictures")


class SplitOptions(RowsOptions):
    """Write two files that share no image; a row's side depends on its image's bytes and the seed alone."""

    output: str = Field(description="the JSON lines file for the larger side, usually training")
    held_out: str = Field(description="the JSON lines file for the rows held out")
    holdout: float = Field(0.1, gt=0, lt=1, description="share of the images held out")
    seed: Seed = Field(0, description="another seed holds out other images")
    index: Path | None = Field(
        Path("runs/features"),
        description="where the digests of images are kept, so that each is read once; None: nowhere",
    )
    look: bool = Field(
        True, description="say how many images held out look like an image of the other side; --no-look: do not"
    )


class FilterOptions(_Judged):
    """Drop faulty rows, and those whose image is missing, broken, small, blank, a strip, blurred or badly exposed."""

    min_side: int = Field(32, gt=0, description="pixels the shorter side must have")
    max_aspect: float = Field(5.0, ge=1, description="how many times longer than the other a side may be")
    min_contrast: float = Field(2.0, ge=0, description="standard deviation of grey, of 255, below which it is blank")
    min_sharpness: float = Field(
        0,
        ge=0,
        description="variance of grey's Laplacian at 256 pixels, below which it is blurred; photographs have 100 and"
        " more, flat drawings less",
    )
    min_brightness: float = Field(0, ge=0, le=255, description="mean grey, of 255, below which it is underexposed")
    max_brightness: float = Field(255, ge=0, le=255, description="mean grey, of 255, over which it is overexposed")
    agree: float = Field(
        0,
        ge=0,
        le=1,
        description="of rows that were answered several times: share of the answers that has to be the same",
    )
    hook: str | None = Field(
        None,
        description="module:function, your own rule: it gets each row that would stay, and gives None, or why it goes;"
        " for personal data, leaks and the like",
    )


class ScoreOptions(_Judged):
    """Score how well picture and answer go together, and leave the worst rows out."""

    model: str | None = Field(
        None,
        description="a CLIP checkpoint, a directory or Hugging Face id; for --by agreement a LLaVA too; sharpness and"
        " contrast need none",
    )
    by: Literal["similarity", "margin", "agreement", "sharpness", "contrast"] = Field(
        "margin",
        description="similarity: of picture and text; margin: the same, less that of the likeliest other answer to the"
        " question; agreement: the share of the same answer among the nearest pictures that are asked the same;"
        " sharpness and contrast of the picture",
    )
    drop: float = Field(
        0, ge=0, lt=1, description="share of the rows, those with the lowest figures, that are left out"
    )
    least: float | None = Field(None, description="figure below which a row is left out")
    text: str = Field("{question} {answer}", description="what is compared with the picture")
    neighbours: int = Field(10, gt=0, le=64, description="for --by agreement: nearest pictures that are asked")
    within: Literal["question", "category"] = Field(
        "question",
        description="for --by agreement: rows with the same question, or the same category, are asked the same;"
        " category where one thing is asked in several wordings",
    )
    scores: str | None = Field(
        None, description="the JSON lines file of all rows' figures, those of the picture's quality too [OUTPUT.scores]"
    )


class BalanceOptions(_Judged):
    """Leave out rows of the most common answers, categories or looks of pictures, so that none has over its share."""

    by: Literal["answer", "category", "cluster"] = Field(
        "answer", description="what is balanced; cluster: pictures that look alike to --model"
    )
    most_share: float = Field(0.5, gt=0, le=1, description="share of the rows kept that one of them may have")
    within: Literal["set", "question", "category"] = Field(
        "set",
        description="where the share is counted: in the whole set, or among the rows of each question or category",
    )
    clusters: int = Field(50, gt=1, le=10_000, description="for --by cluster: how many")
    model: str | None = Field(None, description="for --by cluster: a CLIP or LLaVA checkpoint")
    seed: Seed = Field(0, description="another seed keeps other rows")


class ImportOptions(ReadingOptions, _Kept):
    """Turn a data set of another form into JSON lines; what cannot be a row is dropped and named."""

    source: str = Field(
        description="the file or folder to read, a path or URL; Hugging Face's folders lie on this machine"
    )
    images: str = Field(
        "", description="the folder image names are relative to; pictures that lie in the set itself are written there"
    )
    output: str = Field(description="the JSON lines file to write, a path or URL")


class MixOptions(Options):
    """Mix several sets by weight, shuffled; give --data, --images and --weight once per set, in the same order."""

    data: list[str] = Field(min_length=1, description="a set's rows")
    images: list[str] = Field(min_length=1, description="the set's image folder; all lie under one folder")
    weight: list[float] = Field(min_length=1, description="the set's share, relative to the others'")
    output: str = Field(description="the JSON lines file to write; the last line printed says its image folder")
    rows: int | None = Field(None, gt=0, description="rows in all [as many as the weights and the smallest set allow]")
    seed: Seed = Field(0, description="of the choice and the order")


class ChartOptions(Options):
    """Draw charts and ask about them: images and JSON lines with true answers, the same for the same seed."""

    output: str = Field(description="the folder to write, a path or URL: charts.jsonl, and the images in images/")
    charts: int = Field(100, gt=0, description="charts to draw")
    kinds: list[Kind] = Field(list(KINDS), min_length=1, description="kinds of chart, taken in turn")
    ask: list[QuestionKind] = Field(
        list(QUESTION_KINDS), min_length=1, description="kinds of question; each becomes a category"
    )
    refer: list[Refer] = Field(
        ["name"],
        min_length=1,
        description="how questions call a part: by name, or by its place from the left (bars and lines alone), which"
        " a model can answer too that cannot read small letters",
    )
    questions: int = Field(4, gt=0, description="questions per chart, at most; each of another kind or thing")
    size: int = Field(128, ge=64, le=2048, description="side in pixels; below 128 labels blur")
    parts: int = Field(5, ge=3, le=8, description="bars, slices or stages at most; more are harder to read")
    values: Literal["any", "even", "bell", "skewed"] = Field(
        "any", description="how values are spread: evenly, around a middle, or many small and few large"
    )
    seed: Seed = Field(0, description="another seed draws other charts")
    questions_url: str | None = Field(None, description="OpenAI-compatible endpoint, …/v1, that writes more questions")
    questions_model: str | None = Field(None, description="the endpoint's model")
    questions_key: SecretStr | None = Field(None, description="the endpoint's API key, if it wants one")


AnnotationForm = Literal["coco", "voc", "yolo", "folders", "table"]


class AnnotationOptions(Options):
    """Make questions with true answers from boxes, classes or a table; yes and no equally often for each wording."""

    form: AnnotationForm = Field(
        description="coco: an instances file; voc: a folder of XML files; yolo: pictures with label files; folders: a"
        " folder of pictures for each class; table: CSV, a row for each picture"
    )
    source: str = Field(
        description="what to read, a path or URL: the file of coco and table, the folder of voc and folders, YOLO's"
        " data.yaml or a file with a class's name a line"
    )
    images: str = Field(description="the folder, a path or URL, that the pictures' names are relative to")
    output: str = Field(description="the JSON lines file to write, a path or URL")
    questions: int = Field(8, gt=0, description="questions a picture, at most; of as many kinds as it allows")
    kinds: list[str] = Field([], description="kinds of question to ask, by their names in the templates [all]")
    templates: str | None = Field(
        None, description="a TOML file of wordings [trainer/data/annotations/templates.toml, which says how]"
    )
    min_area: float = Field(
        0.001, ge=0, lt=1, description="share of the picture below which a thing is too small to ask about"
    )
    partial: bool = Field(
        False,
        description="not everything is annotated, as in Open Images: nothing is said to be absent, and nothing counted",
    )
    columns: list[str] = Field([], description="table: the columns to ask about [all but the picture's and id]")
    seed: Seed = Field(0, description="another seed asks other questions")


class EndpointOptions(Options):
    """Options of every command that asks a vision model over HTTP."""

    images: str = Field(description="the folder of pictures, a path or URL")
    data: str | None = Field(None, description="rows whose pictures are asked about [every picture in --images]")
    output: str = Field(description="the JSON lines file to write; answers are kept beside it, in OUTPUT.asked")
    url: str = Field(description="OpenAI-compatible endpoint, such as this project's service: http://127.0.0.1:8000/v1")
    model: str = Field(description="the endpoint's model; of this project's service the base or an adapter")
    key: SecretStr | None = Field(None, description="the endpoint's API key, if it wants one")
    limit: int | None = Field(None, gt=0, description="ask about the first pictures alone")
    plan: bool = Field(False, description="ask about one picture, say what all would cost, and end")
    at_once: int = Field(4, gt=0, le=256, description="pictures that are asked about at the same time")
    per_minute: float | None = Field(None, gt=0, description="requests a minute, at most")
    patience_s: float = Field(600, gt=0, description="seconds for which a request without an answer is tried again")
    price_in: float = Field(0, ge=0, description="price of a million tokens that go in, in any money")
    price_out: float = Field(0, ge=0, description="price of a million tokens that come back")
    most_cost: float | None = Field(
        None, gt=0, description="money that may be spent; once more was spent, no further picture is asked about"
    )
    max_tokens: int = Field(256, gt=0, description="longest answer, in tokens; a longer one is left out")
    temperature: float = Field(0, ge=0, le=2, description="0: the likeliest answer")
    side: int = Field(672, gt=0, le=4096, description="pixels of the longer side, to which larger pictures are scaled")
    hook: str | None = Field(
        None, description="module:function, your own rule: it gets each row, and gives None, or why it is left out"
    )


class CaptionOptions(EndpointOptions):
    """Have a vision model write a caption of each picture; stopped, the same command goes on."""

    ask: str = Field("Describe this picture in one or two sentences.", description="what the model is told")
    question: str = Field("Describe the picture.", description="the rows' question, to which the caption is the answer")


class QuestionOptions(EndpointOptions):
    """Have a vision model write questions about each picture with answers; stopped, the same command goes on."""

    count: int = Field(4, gt=0, le=50, description="questions a picture")
    ask: str = Field(
        "Write {count} different questions about this picture that can be answered by looking at it and not otherwise,"
        ' each with its true answer. Answer with a JSON list of objects {{"question": "…", "answer": "…"}} and nothing'
        " else; an answer is one to three words or a number.",
        description="what the model is told; {count} is --count, and other braces are doubled",
    )
    answers: int = Field(
        1, gt=0, le=20, description="answers to each question: the first comes with it, others are asked for one by one"
    )
    again: float = Field(0.7, ge=0, le=2, description="temperature at which these others are asked for")
    agree: float = Field(0.6, gt=0, le=1, description="share of the answers that has to be the same, or the row goes")


class DataOptions(Options):
    """Check, clean, convert, mix and draw training rows."""

    check: CliSubCommand[CheckOptions] = Field(description="name every fault of a set, or say what it holds")
    report: CliSubCommand[ReportOptions] = Field(description="one page of what a set holds, to look at")
    dedupe: CliSubCommand[DedupeOptions] = Field(description="drop questions asked twice of the same picture")
    split: CliSubCommand[SplitOptions] = Field(description="write two files that share no image")
    filter: CliSubCommand[FilterOptions] = Field(description="drop small, blank and broken images")
    import_: CliSubCommand[ImportOptions] = Field(alias="import", description="convert from another form")
    mix: CliSubCommand[MixOptions] = Field(description="mix several sets by weight")
    charts: CliSubCommand[ChartOptions] = Field(description="draw charts, with questions and true answers")
    annotations: CliSubCommand[AnnotationOptions] = Field(description="questions from boxes, classes and tables")
    score: CliSubCommand[ScoreOptions] = Field(description="leave out rows whose answer does not fit the picture")
    balance: CliSubCommand[BalanceOptions] = Field(description="leave out rows of what there is too much of")
    caption: CliSubCommand[CaptionOptions] = Field(description="have a vision model describe pictures")
    questions: CliSubCommand[QuestionOptions] = Field(description="have a vision model ask about pictures, and answer")
