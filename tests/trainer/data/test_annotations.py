"""`data annotations`: questions from boxes, classes and tables, their answers checked against the pictures' pixels."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage

from tests.conftest import png
from trainer.__main__ import main
from trainer.data.annotations.ledger import Ledger
from trainer.data.annotations.questions import UnwordedQuestion
from trainer.data.annotations.wordings import DEFAULT, Wordings
from trainer.data.row import Row
from trainer.data.rows import read_rows

COLOURS = {
    "red block": (220, 0, 0), "orange disc": (255, 165, 0), "green tie": (0, 128, 0), "blue box": (0, 0, 220),
    "pink dish": (255, 105, 180), "grey fly": (128, 128, 128),
}  # fmt: skip
PLURALS = {f"{name}{'es' if name.endswith(('x', 'sh')) else 's'}": name for name in COLOURS} | {
    "grey flies": "grey fly"
}
SIDE, SCENES = 96, 300


def drawn(folder: Path) -> Path:
    """300 pictures of one to six blots that do not touch, and their boxes in COCO's form."""
    rng = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True)
    # One class is on most pictures, as people are in COCO: its name must not tell the answer.
    weights = np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    for number in range(SCENES):
        picture = Image.new("RGB", (SIDE, SIDE), "white")
        pen = ImageDraw.Draw(picture)
        taken = np.zeros((SIDE, SIDE), bool)
        for _ in range(rng.integers(1, 7)):
            kind = int(rng.choice(len(COLOURS), p=weights))
            width, height = (int(side) for side in rng.integers(8, 40, 2))
            x, y = int(rng.integers(1, SIDE - width - 1)), int(rng.integers(1, SIDE - height - 1))
            if taken[y - 1 : y + height + 1, x - 1 : x + width + 1].any():
                continue
            taken[y : y + height, x : x + width] = True
            shape = pen.ellipse if rng.random() < 0.5 else pen.rectangle
            shape((x, y, x + width - 1, y + height - 1), fill=list(COLOURS.values())[kind])
            box = [x, y, width, height]
            boxes.append({"id": len(boxes), "image_id": number, "category_id": kind + 1, "bbox": box, "iscrowd": 0})
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        picture.save(folder / "images" / f"{number}.png")
    kinds = [{"id": number, "name": name} for number, name in enumerate(COLOURS, start=1)]
    file = folder / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": kinds}))
    return file


@dataclass
class Blot:
    """One connected patch of a colour, found in the pixels; sides in pixels."""

    left: int
    top: int
    right: int
    bottom: int


def blots(file: str) -> dict[str, list[Blot]]:
    pixels = np.asarray(Image.open(file).convert("RGB"))
    found: dict[str, list[Blot]] = defaultdict(list)
    for name, colour in COLOURS.items():
        labelled, _ = ndimage.label((pixels == colour).all(-1))
        for rows, columns in ndimage.find_objects(labelled):
            found[name].append(Blot(columns.start, rows.start, columns.stop, rows.stop))
    return found


def yes(flag: bool) -> str:
    return "yes" if flag else "no"


def truth(row: Row, found: dict[str, list[Blot]]) -> str:
    """The answer as the pixels have it; knows only the question's words."""
    question = row.question
    names = re.findall("|".join([*PLURALS, *COLOURS]), question)
    one, *others = [PLURALS.get(name, name) for name in names] or [""]
    if row.category == "what":
        (one,) = found
        assert len(found[one]) == 1
        return one
    if row.category == "count":
        return str(len(found[one]))
    if row.category == "exists":
        return yes(one in found)
    if row.category == "more":
        return yes(len(found[one]) > len(found[others[0]]))
    (a,) = found[one]
    if row.category == "side":
        assert a.right <= SIDE / 2 or a.left >= SIDE / 2
        return "left" if a.right <= SIDE / 2 else "right"
    if row.category == "height":
        return "top" if a.bottom <= SIDE / 2 else "bottom"
    (b,) = found[others[0]]
    larger = a.right - a.left > b.right - b.left and a.bottom - a.top > b.bottom - b.top
    smaller = a.right - a.left < b.right - b.left and a.bottom - a.top < b.bottom - b.top
    assert row.category not in ("larger", "smaller", "which_larger") or larger or smaller
    relations: dict[str, str] = {
        "left_of": yes(a.right <= b.left), "right_of": yes(a.left >= b.right), "above": yes(a.bottom <= b.top),
        "below": yes(a.top >= b.bottom), "larger": yes(larger), "smaller": yes(smaller),
        "which_larger": one if larger else others[0],
    }  # fmt: skip
    return relations[row.category]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("drawn")
    file = drawn(folder)
    output = folder / "rows.jsonl"
    assert main(["data", "annotations", "--form", "coco", *paths(file, folder / "images", output)]) == 0
    return read_rows(output, folder / "images")


def paths(source: Path, images: Path, output: Path, *more: str) -> list[str]:
    return ["--source", str(source), "--images", str(images), "--output", str(output), *more]


def test_every_answer_is_true_of_the_drawing(asked: list[Row]) -> None:
    assert len(asked) > 1000
    kinds = Counter(row.category for row in asked)
    assert set(kinds) == set(Wordings.read(None).by_kind) - {"label", "is_label", "fact", "fact_is", "fact_more"}
    pictures = {str(row.image): blots(str(row.image)) for row in asked}
    wrong = [(row.question, row.answer) for row in asked if truth(row, pictures[str(row.image)]) != row.answer]
    assert not wrong


def wording(row: Row) -> str:
    return re.sub("|".join([*PLURALS, *COLOURS]), "…", row.question).replace(" an ", " a ")


def test_each_wording_is_answered_yes_as_often_as_no(asked: list[Row]) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for row in asked:
        if row.answer in ("yes", "no", "left", "right", "top", "bottom"):
            answers[wording(row)][row.answer] += 1
    counted = {words: max(found.values()) / found.total() for words, found in answers.items() if found.total() >= 20}
    assert len(counted) >= 12
    assert all(share <= 0.55 for share in counted.values()), counted


def test_a_class_that_is_nearly_always_there_does_not_tell_the_answer(asked: list[Row]) -> None:
    """Half of the blots are red: asked of each picture as it comes, "red" would mean yes."""
    for name in COLOURS:
        said = Counter(row.answer for row in asked if row.category == "exists" and name in row.question)
        assert abs(said["yes"] - said["no"]) <= 2


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=200))
def test_a_ledger_never_tips_by_more_than_one(drawn: list[tuple[str, bool]]) -> None:
    ledger = Ledger(Wordings.read(None))
    rng = np.random.default_rng(0)
    for subject, flag in drawn:
        ledger.choose([UnwordedQuestion("exists", subject, {}, yes(flag), flag)], rng)
    for answers in ledger.answers.values():
        assert abs(answers["yes"] - answers["no"]) <= 1


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(["data", "annotations", *arguments])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def coco(folder: Path, **changed: Any) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [2, 2, 20, 20]}],
        "categories": [{"id": 7, "name": "traffic_light"}, {"id": 8, "name": "dog"}],
    } | changed
    (folder / "a.png").write_bytes(png())
    file = folder / "coco.json"
    file.write_text(json.dumps(content))
    return file


def test_crowds_are_neither_counted_nor_placed_nor_absent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = {"image_id": 1, "category_id": 7, "bbox": [2, 2, 20, 20]}
    file = coco(tmp_path, annotations=[box, {**box, "iscrowd": 1}])
    status, _ = run(capsys, "--form", "coco", *paths(file, tmp_path, tmp_path / "o", "--questions", "30"))
    rows = read_rows(tmp_path / "o", tmp_path)
    assert status == 0
    assert {(row.category, row.answer) for row in rows} == {("exists", "yes"), ("exists", "no")}
    assert all("traffic light" in row.question for row in rows if row.answer == "yes")


def test_a_picture_that_exif_turns_is_asked_nothing_about_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = coco(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png", exif=exif)
    status, told = run(capsys, "--form", "coco", *paths(file, tmp_path, tmp_path / "o", "--questions", "30"))
    assert status == 0
    assert "asked nothing about places and sizes" in told
    assert {row.category for row in read_rows(tmp_path / "o", tmp_path)} == {"what", "count", "exists"}


def test_what_is_not_everything_annotated_says_nothing_is_absent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = coco(tmp_path)
    run(capsys, "--form", "coco", *paths(file, tmp_path, tmp_path / "o", "--questions", "30", "--partial"))
    answers = {row.answer for row in read_rows(tmp_path / "o", tmp_path)}
    assert answers == {"yes"}


def test_bad_entries_are_left_out_by_name_and_the_rest_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [2, 2, 20, 20]}
    bad = [good | change for change in ({"image_id": 9}, {"category_id": 9}, {"bbox": None}, {"bbox": [1, 2, "x", 4]})]
    images = [
        {"id": 1, "file_name": "a.png", "width": 64, "height": 64},
        {"id": 1, "file_name": "b.png", "width": 64, "height": 64},
        {"id": 3, "file_name": "missing.png", "width": 64, "height": 64},
        {"id": 4, "file_name": "../a.png", "width": 64, "height": 64},
        {"id": 5, "file_name": "a.png", "width": 0, "height": 64},
    ]
    outside = good | {"bbox": [100, 2, 20, 20], "category_id": 8}
    file = coco(tmp_path, annotations=[good, *bad, outside], images=images)
    status, told = run(capsys, "--form", "coco", *paths(file, tmp_path, tmp_path / "o"))
    assert status == 0
    for sentence in (
        "4 x boxes left out, their image_id", "1 x boxes left out, they lie outside",
        "2 x pictures left out, they have no",
        "1 x pictures left out, they are not in --images", "1 x pictures left out, their names lead out",
    ):  # fmt: skip
        assert sentence in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"images": [', "not JSON"),
        ("{}", "has no categories"),
        ('{"categories": [{"id": 1, "name": "a"}], "images": []}', "has no images"),
        ('{"annotations": [{"caption": "a dog"}]}', "has no categories"),
    ],
)
def test_what_is_no_instances_file_is_refused_by_name(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_text(text)
    status, told = run(capsys, "--form", "coco", *paths(tmp_path / "x.json", tmp_path, tmp_path / "o"))
    assert status == 2
    assert said in told
    assert "x.json" in told
    assert not (tmp_path / "o").exists()


def two_things(folder: Path) -> None:
    """A small one at the top left, a large one at the bottom right."""
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(png(size=(100, 50)))


EXPECTED = {
    "is the cat on the left or on the right?": "left",
    "is the cat larger than the dog?": "no",
    "is the dog below the cat?": "yes",
}


def answered(rows: list[Row]) -> dict[str, str]:
    return {row.question: row.answer for row in rows}


def plain(folder: Path, *kinds: str) -> list[str]:
    """Templates of one wording for each kind, so that what is asked is known."""
    first = {kind: wordings[:1] for kind, wordings in Wordings.read(None).by_kind.items() if kind in kinds}
    file = folder / "plain.toml"
    file.write_text("".join(f"[{kind}]\nwordings = {json.dumps(words)}\n" for kind, words in first.items()))
    return ["--templates", str(file), "--questions", "40"]


def test_voc_is_read_in_pixels_that_count_from_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_things(tmp_path)
    (tmp_path / "xml").mkdir()

    def thing(name: str, *box: int, difficult: int = 0) -> str:
        sides = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"

    things = thing("cat", 1, 1, 50, 10) + thing("dog", 31, 21, 100, 50) + thing("bird", 1, 1, 20, 20, difficult=1)
    size = "<size><width>100</width><height>50</height></size>"
    (tmp_path / "xml" / "a.xml").write_text(f"<annotation><filename>a.png</filename>{size}{things}</annotation>")
    (tmp_path / "xml" / "b.xml").write_text("<annotation><filename>b.png")
    (tmp_path / "xml" / "c.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><annotation>&a;</annotation>')
    status, told = run(
        capsys, "--form", "voc", *paths(tmp_path / "xml", tmp_path / "images", tmp_path / "o"),
        *plain(tmp_path, "side", "below", "count"),
    )  # fmt: skip
    assert status == 0
    assert "2 x annotation files left out" in told
    said = answered(read_rows(tmp_path / "o", tmp_path / "images"))
    # The cat ends on the 50th of a hundred columns: it is whole in the left half.
    assert said["is the cat on the left or on the right?"] == "left"
    assert "how many birds are there?" not in said


def test_yolo_is_read_beside_its_pictures_and_in_its_labels_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_things(tmp_path)
    (tmp_path / "images" / "empty.png").write_bytes(png("blue"))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("1 0.2 0.1 0.2 0.2\n0 0.6 0.5 1.0 0.5 1.0 1.0 0.6 1.0\n")
    (tmp_path / "data.yaml").write_text("names:\n  0: dog\n  1: cat\n")
    status, _ = run(
        capsys, "--form", "yolo", *paths(tmp_path / "data.yaml", tmp_path / "images", tmp_path / "o"),
        *plain(tmp_path, "side", "larger", "below", "exists"),
    )  # fmt: skip
    assert status == 0
    rows = read_rows(tmp_path / "o", tmp_path / "images")
    said = answered(rows)
    assert {question: said[question] for question in EXPECTED if question in said} == {
        question: answer for question, answer in EXPECTED.items() if question in said
    }
    assert said["is the cat on the left or on the right?"] == "left"
    assert {row.answer for row in rows if "empty" in str(row.image)} == {"no"}


def test_yolo_without_any_label_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_things(tmp_path)
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    status, told = run(capsys, "--form", "yolo", *paths(tmp_path / "classes.txt", tmp_path / "images", tmp_path / "o"))
    assert status == 2
    assert "no picture has a label file" in told


def test_folders_are_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for at, name in enumerate(("golden_retriever", "cat", "golden_retriever", "cat", "fox")):
        (tmp_path / "set" / "train" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / "train" / name / f"{at}.png").write_bytes(png())
    source = tmp_path / "set"
    status, told = run(capsys, "--form", "folders", *paths(source, source, tmp_path / "o"))
    assert status == 0, told
    rows = read_rows(tmp_path / "o", source)
    for row in rows:
        name = Path(str(row.image)).parent.name.replace("_", " ")
        named = next((each for each in ("golden retriever", "cat", "fox") if each in row.question), None)
        assert row.answer == (name if row.category == "label" else yes(named == name))
    assert {row.category for row in rows} == {"label", "is_label"}


def test_a_table_gives_its_cells_and_compares_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png("blue"))
    (tmp_path / "t.csv").write_text('file_name,id,paint_colour,weight\na.png,1,red,3.5\nb.png,2,"blue",10\nb.png,3\n')
    status, told = run(
        capsys, "--form", "table", *paths(tmp_path / "t.csv", tmp_path, tmp_path / "o"),
        *plain(tmp_path, "fact", "fact_is", "fact_more"),
    )  # fmt: skip
    assert status == 0, told
    assert "1 x rows left out" in told
    said = {(Path(str(row.image)).stem, row.question): row.answer for row in read_rows(tmp_path / "o", tmp_path)}
    assert said["a", "what is the paint colour?"] == "red"
    assert said["b", "what is the weight?"] == "10"
    checks = {
        ("a", "is the weight over 10?"): "no", ("b", "is the weight over 3.5?"): "yes",
        ("a", "is the paint colour red?"): "yes", ("a", "is the paint colour blue?"): "no",
        ("b", "is the paint colour red?"): "no", ("b", "is the paint colour blue?"): "yes",
    }  # fmt: skip
    assert set(said) - set(checks) == {(i, f"what is the {c}?") for i in "ab" for c in ("paint colour", "weight")}
    assert all(checks[key] == answer for key, answer in said.items() if key in checks)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[exist]\nwordings = ["is there {a_name}?"]', "[exist] is no kind of question"),
        ('[exists]\nwordings = ["is there {colour}?"]', "braces may hold {a_name}, {name}, {plural}"),
        ('[exists]\nwordings = "is there {a_name}?"', "needs wordings, a list of texts"),
        ("[exists", "not TOML"),
        ("[plurals]\nperson = 3", "[plurals] is not a table of words"),
        ("[alike]\ngroups = 5", "[alike] groups is not a list of lists"),
        ('[alike]\ngroups = ["sofa", "couch"]', "[alike] groups is not a list of lists"),
        ("alike = 3", "[alike] groups is not a list of lists"),
    ],
)
def test_templates_that_cannot_be_followed_are_refused_by_name(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.toml").write_text(text)
    status, told = run(
        capsys,
        "--form",
        "coco",
        *paths(coco(tmp_path), tmp_path, tmp_path / "o", "--templates", str(tmp_path / "t.toml")),
    )
    assert status == 2
    assert said in told
    assert "--templates" in told


def test_words_that_the_rules_get_wrong_come_from_the_file() -> None:
    wordings = Wordings.read(str(DEFAULT))
    assert wordings.one("traffic light")["plural"] == "traffic lights"
    assert wordings.one("wine glass")["plural"] == "wine glasses"
    assert wordings.one("person") == {"name": "person", "a_name": "a person", "plural": "people"}
    assert wordings.one("umbrella")["a_name"] == "an umbrella"
    assert wordings.one("scissors")["a_name"] == "a pair of scissors"
