"""Forms that records show by their keys: the ones of public sets, and those that tools write.

A form has the keys by which it is recognised (`needs`, folded as keys.fold does), keys of it that change nothing in a
row (`known`), and, where record.py cannot read its records as they are, a function that puts them right.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config.reading import Form
from trainer.data.forms import choices, feedback, label_studio, scienceqa
from trainer.data.forms.keys import FIELD, fold
from trainer.data.forms.reading import Reading
from trainer.errors import DataError

Convert = Callable[[Mapping[str, Any]], Mapping[str, Any]]
Expand = Callable[[Mapping[str, Any]], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Set:
    """How a form of record is recognised, and how it is read.

    `convert` makes a record one that record.py reads; `expand` gives the records of one that holds several.
    """

    form: Form
    needs: frozenset[str]
    known: frozenset[str] = frozenset()
    convert: Convert | None = None
    expand: Expand | None = None


def _keys(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _chartqa(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Several labels are the parts of one answer."""
    label = record.get("label")
    if not isinstance(label, list) or len(label) < 2:
        return record
    return {**record, "label": ", ".join(map(str, label))}


def _aokvqa(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The right choice is the answer, the ten direct answers are the right ones."""
    _, right = choices.chosen(record.get("choices"), record.get("correct_choice_idx"))
    kept = {key: record[key] for key in ("question_id", "question", "image_id", "image") if record.get(key) is not None}
    if isinstance(number := kept.get("image_id"), int) and "image" not in kept:
        kept["image_id"] = f"{number:012}"
    return {**kept, "answer": right, "answers": record.get("direct_answers")}


def _visual_genome(record: Mapping[str, Any]) -> Iterable[Any]:
    """The questions of a picture, each a row; pictures are named by their number."""
    asked = record.get("qas")
    for each in asked if isinstance(asked, list) else [asked]:
        if not isinstance(each, Mapping):
            yield each
            continue
        image = each.get("image_id", record.get("id"))
        yield {**each, "image": str(image) if isinstance(image, int) else image}


def _caption(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A text alone is the caption, as --form captions says."""
    named = {key: key for key in record}
    text = next((key for key in named if fold(key) in ("text", "label", "description")), None)
    return {("caption" if key == text else key): value for key, value in record.items()}


# The first whose needs a record has; flat rows are what is left.
SETS: tuple[Set, ...] = (
    Set("scienceqa", _keys("question choices answer hint"), convert=scienceqa.convert),
    Set("a-okvqa", _keys("question choices correctchoiceidx"), convert=_aokvqa),
    Set("chartqa", _keys("imgname query label"), _keys("humanormachine"), _chartqa),
    Set("chartqa", _keys("image query label humanormachine"), _keys("humanormachine"), _chartqa),
    Set(
        "gqa",
        _keys("question answer imageid fullanswer"),
        _keys("semantic entailed equivalent groups semanticstr annotations types fullanswer isbalanced"),
    ),
    Set(
        "textvqa",
        _keys("question imageid answers imageclasses"),
        _keys("imageclasses flickroriginalurl flickr300kurl questiontokens setname ocrtokens ocrinfo"),
    ),
    Set(
        "docvqa",
        _keys("question image answers docid"),
        _keys("questiontypes docid ucsfdocumentid ucsfdocumentpageno datasplit ocroutputfile"),
    ),
    Set("vizwiz", _keys("image question answers answerable"), _keys("answerable answertype")),
    Set("visual-genome", _keys("qas"), _keys("aobjects qobjects imageid"), expand=_visual_genome),
    Set(
        "vqa-rad",
        _keys("imagename question answer phrasetype"),
        _keys("phrasetype imageorgan imagecaseurl evaluation qidlinkedid questionrephrase questionrelation")
        | _keys("questionframe questionframed"),
    ),
    Set(
        "slake",
        _keys("imgname question answer triple"),
        _keys("imgid location modality basetype triple qlang answertype"),
    ),
    Set(
        "label-studio",
        _keys("annotations data"),
        label_studio.KNOWN,
        label_studio.convert,
    ),
    # What the service keeps of questions and corrections (--capture).
    Set(
        "flat",
        _keys("request tenant at"),
        _keys("request tenant at adapter version confidence release said comment answered keptby"),
    ),
    # RLAIF-V has the last three beside them.
    Set("pairs", _keys("chosen rejected"), _keys("dsname origindataset originsplit")),
    Set("llava", _keys("conversations")),
    Set("messages", _keys("messages")),
    Set("alpaca", _keys("instruction output")),
    Set("captions", _keys("caption image")),
)
_CAPTIONS = Set("captions", frozenset(), convert=_caption)
# Corrections are rows to learn from as they are, and pairs where --form says so.
_FEEDBACK = Set("feedback", feedback.NEEDS, convert=feedback.convert)
_FLAT = Set("flat", frozenset())


def set_of(records: Iterable[Any]) -> Set:
    """The set whose keys every one of the first records has; flat rows where there is none."""
    keys = [{fold(key) for key in record} for record in records if isinstance(record, Mapping)]
    for each in SETS:
        if keys and all(each.needs <= found for found in keys):
            return each
    return _FLAT


def chosen(source: str, records: list[Any], how: Reading) -> Set:
    """The set that records show, or the one that --form names.

    Raises:
        DataError: --form names a set whose keys no record has.
    """
    found = set_of(records)
    if how.form in ("auto", found.form, "csv", "huggingface", "webdataset"):
        return found
    if how.form in ("captions", "flat"):
        return _CAPTIONS if how.form == "captions" else _FLAT
    asked = next((each for each in (*SETS, _FEEDBACK) if each.form == how.form), None)
    keys = [{fold(key) for key in record} for record in records if isinstance(record, Mapping)]
    if asked is None or not any(asked.needs <= each for each in keys):
        raise DataError([f"{source}: is not of --form {how.form}, it looks like {found.form}: leave --form out"])
    return asked


def shown(record: Mapping[str, Any]) -> str:
    """The keys of a record that make a row, for a line of evidence."""
    return ", ".join(key for key in record if fold(key) in FIELD) or "none of the keys of a row"
