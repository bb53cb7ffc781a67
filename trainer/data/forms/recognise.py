"""Which form a file or folder has: recognised by its beginning, or named by --form."""

from pathlib import Path

from trainer.data import files
from trainer.data.forms import feedback, huggingface, json_files, tables, text, webdataset
from trainer.data.forms.reading import Reading
from trainer.data.forms.recognised import Recognised
from trainer.errors import DataError

# What a folder of pictures has beside them, as the Hub's imagefolder names it.
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_ENDINGS = (".jsonl", ".json", ".csv", ".tsv")


def recognise(source: str, images: str, how: Reading) -> Recognised:
    """The form of a set.

    Raises:
        DataError: the file cannot be read, is of no kind that holds rows, or is not of the form that --form names.
        OptionError: a package that its form needs is not installed, or --split or --columns names what is not there.
    """
    path = files.local(source)
    if path and path.is_dir() and how.form == "feedback":
        return feedback.recognise(source, path)
    if path and path.is_dir():
        return _of_folder(source, path, images, how)
    if how.form == "huggingface" or source.endswith(".parquet"):
        return huggingface.recognise(source, how)
    if how.form == "webdataset" or webdataset.is_shard(source):
        return webdataset.recognise([source])
    return _of_text(source, images, how)


def _of_text(source: str, images: str, how: Reading) -> Recognised:
    found = text.detect(source)
    first = found.head.lstrip()[:1]
    if first == "<":
        raise DataError([f"{source}: is HTML or XML and no rows: a download that failed looks like this"])
    named = source.endswith((".csv", ".tsv"))
    if how.form == "csv" or (first not in ("[", "{") and (named or tables.is_table(found.head, how.columns))):
        return tables.recognise(found, how)
    return json_files.recognise(found, images, how)


def _of_folder(source: str, path: Path, images: str, how: Reading) -> Recognised:
    """What a folder holds: Hugging Face's files, tar shards, pictures with a file about them, or one file of rows."""
    if huggingface.is_saved(path):
        return huggingface.recognise(source, how)
    for name in METADATA:
        if (path / name).is_file():
            return _beside(recognise(str(path / name), str(path), how), source, name)
    if huggingface.parquets(path):
        return huggingface.recognise(source, how)
    if shards := sorted(str(each) for each in path.glob("*.tar")):
        return webdataset.recognise(shards)
    rows = sorted(each for each in path.iterdir() if each.suffix in _ENDINGS)
    if len(rows) == 1:
        return recognise(str(rows[0]), images, how)
    if rows:
        raise DataError(
            [f"{source}: holds several files of rows, {', '.join(each.name for each in rows[:9])}: name one"]
        )
    raise DataError(
        [
            f"{source}: is a folder without rows. Of pictures in a folder for each class, `python -m trainer data"
            " annotations --form folders` makes questions"
        ]
    )


def _beside(found: Recognised, folder: str, name: str) -> Recognised:
    """Pictures that lie beside the file about them are named relative to it."""
    return found.of_folder(folder, f"{name}: {found.evidence}")
