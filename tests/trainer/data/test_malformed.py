"""However a LLaVA set is broken, `data check` and `train` name file, line and fault, and never show a traceback."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trainer.commands.train
import trainer.training.prepare
from tests.conftest import ROOT, png
from trainer.__main__ import main
from trainer.errors import TrainerError
from trainer.model.checkpoint import Checkpoint
from trainer.training.memory_plan import Need

Record = dict[str, Any]
LINES = 4
PNG = png()
DEEP = b"[" * 100_000


@dataclass(frozen=True)
class Fault:
    """One way to break a line: `broken` gives its bytes, the message for it has one of the words `says`.

    `train` is False where only `data check` minds.
    """

    name: str
    says: str | tuple[str, ...]
    broken: Callable[[Record], bytes]
    train: bool = True


def good(number: int) -> Record:
    said = [
        ("human", f"<image>\nwhat is shown, {number}?"),
        ("gpt", "größe ✓"),
        ("human", "and now?"),
        ("gpt", "a disc"),
    ]
    turns = [{"from": speaker, "value": value} for speaker, value in said]
    return {"id": f"row-{number}", "image": f"{number}.png", "conversations": turns}


def encoded(record: Any) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")


def field(name: str, value: Any) -> Callable[[Record], bytes]:
    return lambda record: json.dumps(record | {name: value}).encode()


def turn(number: int, **changes: Any) -> Callable[[Record], bytes]:
    def broken(record: Record) -> bytes:
        turns = [dict(each) for each in record["conversations"]]
        turns[number] |= changes
        return json.dumps(record | {"conversations": turns}).encode()

    return broken


def turns(change: Callable[[list[Any]], Any]) -> Callable[[Record], bytes]:
    return lambda record: json.dumps(record | {"conversations": change(record["conversations"])}).encode()


def image(name: str) -> Callable[[Record], bytes]:
    return field("image", name)


# Image files that are no images, beside the good ones of every set.
FILES = {
    "empty.png": b"",
    "text.png": b"<html>not found</html>",
    "cut.png": PNG[: len(PNG) // 2],
    "head.png": PNG[:20],
    "animation.gif": b"GIF89a" + bytes(40),
    "strip.png": png(size=(301, 3)),
}
FAULTS = [
    Fault("missing image", "is not a file", image("missing.png")),
    Fault("image of no name", "not a file's name", image("")),
    Fault("image as a number", "not a file's name", field("image", 7)),
    Fault("two images", "has 2 images", field("image", ["0.png", "1.png"])),
    Fault("a key of one's own", "is not understood", field("picture_of", "0.png")),
    Fault("directory as an image", "is not a file", image("folder")),
    Fault("image above the folder", "outside of", image("../0.png")),
    Fault("image above the folder, by a detour", "outside of", image("folder/../../0.png")),
    Fault("image by an absolute path", "outside of", image("/etc/hostname")),
    Fault("image with a NUL", "is not a file", image("0\0.png")),
    Fault("image with half a surrogate pair", "is not a file", image("\ud800.png")),
    Fault("empty image", "is empty", image("empty.png")),
    Fault("text as an image", "not a PNG, JPEG, WebP", image("text.png")),
    Fault("truncated image", "truncated or corrupt", image("cut.png")),
    Fault("image's header alone", "truncated or corrupt", image("head.png")),
    Fault("animation of no frames", "without a frame", image("animation.gif")),
    Fault("strip", "crop it", image("strip.png")),
    Fault("no answer", "has no answer", turns(lambda said: said[:-1])),
    Fault("no turns", "not a list", turns(lambda _: [])),
    Fault("turns as null", "not a list", turns(lambda _: None)),
    Fault("turns as a number", "not a list", turns(lambda _: 3)),
    Fault("turns as an object", "not a list", turns(lambda said: said[0])),
    Fault("turns as text", "is from None", turns(lambda said: [each["value"] for each in said])),
    Fault("two human turns", "two human turns in a row", turns(lambda said: [said[0], *said])),
    Fault("two gpt turns", "two gpt turns in a row", turns(lambda said: [said[0], said[1], said[1], said[2]])),
    Fault("the answer first", "not from human", turns(lambda said: said[1:])),
    Fault("unknown speaker", "not from human", turn(0, **{"from": "tool"})),
    Fault("empty question", "of turn 1 is missing or empty", turn(0, value="<image>\n ")),
    Fault("answer as null", "of turn 2 is missing or empty", turn(1, value=None)),
    Fault("answer as an object", "of turn 2 is an object", turn(1, value={"text": "a disc"})),
    Fault("answer as a list of numbers", "a part of turn 4 is neither text nor", turn(3, value=[7])),
    Fault("two placeholders", "2 <image> placeholders", turn(0, value="<image><image> what?")),
    Fault("placeholder in an answer", "1 <image> placeholders", turn(1, value="a <image>")),
    Fault("two placeholders in a later turn", "of turn 3 has 2 <image>", turn(2, value="<image><image> and now?")),
    Fault("placeholder without an image", "of turn 1 has 1 <image>", field("image", None)),
    Fault("NUL in a question", "holds a NUL", turn(2, value="and\0now?")),
    Fault("half a surrogate pair in an answer", "half a surrogate pair", turn(1, value="\udc80")),
    Fault("over-long question", ("shorten", "--max-text"), turn(2, value="why is it so? " * 400)),
    Fault("over-long answer", ("shorten", "--max-text"), turn(3, value="so it is. " * 400)),
    Fault("id as an object", "neither text nor a number", field("id", {"row": 3})),
    Fault("category as a list", "neither text nor a number", field("category", ["disc"])),
    Fault("category with half a surrogate pair", "neither text nor a number", field("category", "\ud800")),
    Fault("a list in place of an object", "not a JSON object", lambda record: encoded([record])),
    Fault("null in place of an object", "not a JSON object", lambda _: b"null"),
    Fault("a number in place of an object", "not a JSON object", lambda _: b"12"),
    Fault("text in place of an object", "not a JSON object", lambda _: b'"row"'),
    Fault("half a line", "not JSON", lambda record: encoded(record)[:60]),
    Fault("two objects in a line", "not JSON", lambda record: encoded(record) * 2),
    Fault("a comma too many", "not JSON", lambda record: encoded(record)[:-1] + b",}"),
    Fault("single quotes", "not JSON", lambda record: repr(record).encode()),
    Fault("NUL bytes", "not JSON", lambda _: bytes(16)),
    Fault("NUL bytes inside a string", "not JSON", lambda record: encoded(record).replace(b"what", b"wh\0t")),
    Fault("nested too deep", "not JSON", lambda _: DEEP),
    Fault("nested too deep inside a field", "not JSON", lambda record: encoded(record)[:-1] + b', "x": ' + DEEP),
    Fault("a BOM in the middle of the file", "not JSON", lambda record: b"\xef\xbb\xbf" + encoded(record)),
    Fault("latin-1", "not UTF-8", lambda _: '{"question": "größer?", "answer": "ja"}'.encode("latin-1")),
    Fault("UTF-16", "not UTF-8", lambda _: '{"question": "wie?", "answer": "so"}'.encode("utf-16")),
    Fault("half a surrogate pair as bytes", "not UTF-8", lambda _: b'{"question": "\xed\xa0\x80", "answer": "a"}'),
    Fault("a line of CSV", "not JSON", lambda _: b"image,question,answer"),
]


@dataclass(frozen=True)
class Broken:
    """A set's lines, and what is wrong with which, by line number."""

    lines: tuple[bytes, ...]
    faults: dict[int, Fault]


@st.composite
def sets(draw: st.DrawFn) -> Broken:
    """A good set with one line broken, or several; the first keeps its id for others to repeat."""
    at = draw(st.lists(st.integers(1, LINES - 1), min_size=1, unique=True))
    faults = {number + 1: draw(st.sampled_from(FAULTS)) for number in at}
    lines = [good(number) for number in range(LINES)]
    written = [faults[n].broken(line) if n in faults else encoded(line) for n, line in enumerate(lines, start=1)]
    return Broken(tuple(written), faults)


class Accepted(TrainerError):
    """Raised where training would begin."""


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.load(ROOT / "models/tiny-llava")


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The images of every set; `train` meets a base that is loaded already, and ends where its rows are read."""

    def accept(*_: object) -> None:
        raise Accepted("accepted")

    monkeypatch.setattr(Checkpoint, "load", lambda *_: checkpoint)
    monkeypatch.setattr(
        trainer.training.prepare, "need", lambda *_, **__: Need(0, 0, 0, 0)
    )  # no plan before rows are read
    monkeypatch.setattr(trainer.commands.train, "add_lora", accept)
    (tmp_path / "folder").mkdir()
    (tmp_path / "held-out.jsonl").write_bytes(encoded({**good(LINES), "image": "held-out.png"}))
    (tmp_path / "held-out.png").write_bytes(png("blue"))
    for name, data in {**FILES, **{f"{number}.png": PNG for number in range(LINES)}}.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def said(folder: Path, data: bytes, capsys: pytest.CaptureFixture[str], *command: str) -> list[str]:
    """What a user sees of a refused set; its end is the status and no traceback."""
    file = folder / "rows.jsonl"
    file.write_bytes(data)
    assert main([*command, "--data", str(file), "--images", str(folder)]) == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    lines = errors.splitlines()
    return [line.removeprefix(f"{file}:") for line in lines if line.startswith(str(file))] or lines[-1:]


def check(folder: Path, data: bytes, capsys: pytest.CaptureFixture[str]) -> list[str]:
    return said(folder, data, capsys, "data", "check")


def train(folder: Path, data: bytes, capsys: pytest.CaptureFixture[str]) -> list[str]:
    options = ["--name", "x", "--feature-cache", str(folder / "features"), "--output", str(folder / "run")]
    return said(folder, data, capsys, "train", "--eval-data", str(folder / "held-out.jsonl"), *options)


def named(fault: Fault, number: int, messages: list[str]) -> bool:
    words = (fault.says,) if isinstance(fault.says, str) else fault.says
    return any(message.startswith(f"{number}: ") and any(word in message for word in words) for message in messages)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(broken=sets())
def test_check_names_every_fault_of_a_malformed_set(
    broken: Broken, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = check(folder, b"\n".join(broken.lines), capsys)
    for number, fault in broken.faults.items():
        assert named(fault, number, messages), (fault.name, messages)
    assert {int(message.partition(":")[0]) for message in messages} == set(broken.faults)


def mended(broken: Broken, folder: Path, capsys: pytest.CaptureFixture[str]) -> set[int]:
    """The lines that `train` names, each put right as it is named, until it accepts the set."""
    lines, left = list(broken.lines), dict(broken.faults)
    while (messages := train(folder, b"\n".join(lines), capsys)) != ["accepted"]:
        numbers = {int(message.partition(":")[0]) for message in messages}
        assert numbers <= set(left), messages
        for number in numbers:
            fault = left.pop(number)
            assert named(fault, number, messages), (fault.name, messages)
            lines[number - 1] = encoded(good(number - 1))
    return set(broken.faults) - set(left)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(broken=sets())
def test_train_accepts_a_malformed_set_once_the_lines_it_names_are_put_right(
    broken: Broken, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mended(broken, folder, capsys) == {number for number, fault in broken.faults.items() if fault.train}


def test_every_way_to_break_a_line_is_named_by_both(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults = dict(enumerate(FAULTS, start=2))
    for number in range(LINES, len(FAULTS) + 1):
        (folder / f"{number}.png").write_bytes(PNG)
    lines = [encoded(good(0)), *(fault.broken(good(number - 1)) for number, fault in faults.items())]
    messages = check(folder, b"\n".join(lines), capsys)
    assert [fault.name for number, fault in faults.items() if not named(fault, number, messages)] == []
    named_by_train = mended(Broken(tuple(lines), faults), folder, capsys)
    assert named_by_train == {number for number, fault in faults.items() if fault.train}


GOOD_TEXT = "\n".join(json.dumps(good(number)) for number in range(LINES))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "holds no rows"),
        (b"\n \r\n\t\n", "holds no rows"),
        (b"\0" * 4096, "1: not JSON"),
        (b"\xef\xbb\xbf", "1: not JSON"),
        (PNG, "1: not UTF-8"),
        (f"[{GOOD_TEXT}".replace("\n", ",\n").encode(), "4: not JSON: ']' is missing"),
        (json.dumps([[good(0)]]).encode(), "1 (record 1): not a JSON object"),
    ],
)
@pytest.mark.parametrize("command", [check, train])
def test_a_file_of_another_kind_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], command: Callable[..., list[str]], data: bytes, fault: str
) -> None:
    assert fault in command(folder, data, capsys)[0]


def test_a_bom_before_the_first_line_is_no_fault(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, b"\xef\xbb\xbf" + GOOD_TEXT.encode(), capsys) == ["accepted"]
