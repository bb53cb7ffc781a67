"""`data annotations`: boxes, classes and tables of other tools -> questions with true answers, balanced by wording."""

import posixpath
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from trainer.config.data import AnnotationForm, AnnotationOptions
from trainer.data import files
from trainer.data.annotations.coco import Coco
from trainer.data.annotations.folders import Folders
from trainer.data.annotations.ledger import Ledger
from trainer.data.annotations.pictures import header, turned
from trainer.data.annotations.questions import UnwordedQuestion, Vocabulary, decimal, questions
from trainer.data.annotations.scene import Scene, SceneSource, Thing
from trainer.data.annotations.table import Table
from trainer.data.annotations.voc import Voc
from trainer.data.annotations.wordings import Wordings
from trainer.data.annotations.yolo import Yolo
from trainer.data.row import Row
from trainer.data.write import Report, Writer, writing
from trainer.errors import DataError

SOURCES: dict[AnnotationForm, Callable[[AnnotationOptions, Report], SceneSource]] = {
    "coco": Coco,
    "voc": Voc,
    "yolo": Yolo,
    "folders": Folders,
    "table": Table,
}
# The most values of a table's column that questions may name. Of a column of words with more values it is only asked
# what the value is; of numbers the first so many are named.
_VALUES = 40


def annotations(options: AnnotationOptions) -> str:
    """Write questions about every picture, and say what share of each wording is answered yes.

    Raises:
        DataError: annotations that cannot be read or have another form, no picture that a question can be asked about,
            or an output that cannot be written.
        OptionError: --templates is not TOML, or has a kind of question or a field in braces that is not known.
    """
    report = Report()
    wordings = Wordings.read(options.templates)
    source = SOURCES[options.form](options, report)
    names = tuple(dict.fromkeys(wordings.spoken(name) for name in source.names))
    known = Vocabulary(wordings, names, _columns(options), not options.partial)
    ledger = Ledger(wordings)
    with writing(options.output, options.images, report) as writer:
        for number, scene in enumerate(tqdm(source.scenes, desc="annotations", unit="picture")):
            kept = _kept(scene, options, wordings, report)
            if kept:
                rng = np.random.default_rng((options.seed, number))
                _ask(writer, kept, questions(kept, known, rng), ledger, options, rng)
        if not report.kept:
            raise DataError([f"{options.source}: gave no question", str(report)])
    return "\n".join([str(report), *_shares(ledger)])


def _ask(
    writer: Writer,
    scene: Scene,
    possible: list[UnwordedQuestion],
    ledger: Ledger,
    options: AnnotationOptions,
    rng: np.random.Generator,
) -> None:
    """Write at most --questions about a picture, as many kinds as possible before one comes twice."""
    kinds: dict[str, list[UnwordedQuestion]] = {}
    for asked in possible:
        if not options.kinds or asked.kind in options.kinds:
            kinds.setdefault(asked.kind, []).append(asked)
    order = [list(kinds)[place] for place in rng.permutation(len(kinds))]
    written, image = 0, files.join(options.images, scene.image)
    while order and written < options.questions:
        kind = order.pop(0)
        chosen = ledger.choose(kinds[kind], rng)
        if chosen is None:
            continue
        asked, wording = chosen
        question = wording.format(**asked.fields)
        writer.write(Row(f"{posixpath.splitext(scene.image)[0]}#{written}", image, question, asked.answer, kind))
        written += 1
        kinds[kind] = [each for each in kinds[kind] if each.subject != asked.subject]
        if kinds[kind]:
            order.append(kind)


def _kept(scene: Scene, options: AnnotationOptions, wordings: Wordings, report: Report) -> Scene | None:
    """The scene with its classes by their spoken names, and things under --min-area marked as not certain.

    None where its picture is not in --images or does not open, which the report counts.
    """
    name = posixpath.normpath(scene.image.replace("\\", "/"))
    if posixpath.isabs(name) or name.split("/")[0] == "..":
        report.note("pictures left out, their names lead out of --images", scene.image)
        return None
    url = files.join(options.images, name)
    found = header(url) if files.is_file(url) else None
    if found is None:
        report.note("pictures left out, they are not in --images, or are no pictures", name)
        return None
    elsewhere = any(thing.box for thing in scene.things) and turned(found, scene.size)
    if elsewhere:
        report.note("pictures asked nothing about places and sizes, EXIF turns them or their sides are others", name)
    things = tuple(_thing(thing, elsewhere, options, wordings) for thing in scene.things)
    return replace(scene, image=name, things=things, label=scene.label and wordings.spoken(scene.label))


def _thing(thing: Thing, elsewhere: bool, options: AnnotationOptions, wordings: Wordings) -> Thing:
    box = thing.box
    small = box is not None and box.width * box.height < options.min_area
    return Thing(wordings.spoken(thing.name), None if elsewhere else box, thing.certain and not small)


def _columns(options: AnnotationOptions) -> dict[str, tuple[str, ...]]:
    """The values of a table's columns that a question may name: of numbers some, of words those few that there are."""
    found: dict[str, Counter[str]] = {}
    if options.form != "table":
        return {}
    for scene in Table(options, Report()).scenes:
        for column, value in scene.facts:
            values = found.setdefault(column, Counter())
            if value in values or len(values) <= 2 * _VALUES:
                values[value] += 1
    few = {column: values for column, values in found.items() if len(values) > 1}
    return {
        column: tuple(values)[:_VALUES]
        for column, values in few.items()
        if len(values) <= _VALUES or all(decimal(value) is not None for value in values)
    }


def _shares(ledger: Ledger) -> Iterator[str]:
    """A line for each wording: how often it was asked, and its answers' shares where there are two."""
    for (kind, wording), answers in sorted(ledger.answers.items()):
        count = answers.total()
        shares = ", ".join(f"{answer} {share / count:.0%}" for answer, share in sorted(answers.items(), reverse=True))
        yield f"{kind}: {wording!r} {count} times" + (f": {shares}" if len(answers) <= 2 else "")
