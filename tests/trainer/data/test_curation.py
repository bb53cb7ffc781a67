"""Looks, copies, scores and balance, by the command line and a small CLIP that is made here."""

import json
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from models.clip import make_clip
from trainer.__main__ import main
from trainer.data.curation.balance import cap
from trainer.data.curation.neighbours import Space
from trainer.data.row import Row
from trainer.data.rows import read_rows

COLOURS = ("red", "green", "blue", "yellow")
QUESTION = "which color is it?"


def blot(rng: np.random.Generator, colour: str) -> Image.Image:
    """A blot of a colour somewhere on noise."""
    picture = Image.fromarray(rng.integers(200, 256, (64, 64, 3), dtype=np.uint8))
    x, y = (int(place) for place in rng.integers(0, 34, 2))
    ImageDraw.Draw(picture).ellipse((x, y, x + 29, y + 29), fill=colour)
    return picture


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP that tells the four colours apart."""

    def batch(step: int) -> tuple[list[Image.Image], list[str]]:
        rng = np.random.default_rng(step)
        colours = [COLOURS[number] for number in rng.integers(0, 4, 32)]
        return [blot(rng, colour) for colour in colours], [f"{QUESTION} {colour}" for colour in colours]

    folder = tmp_path_factory.mktemp("clip")
    words = ["which", "color", "is", "it", "?", *COLOURS]
    assert make_clip(folder, batch, words, steps=120) > 0.95
    return folder


def written(folder: Path, rows: list[dict[str, Any]], pictures: dict[str, Image.Image]) -> list[str]:
    folder.mkdir(exist_ok=True, parents=True)
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = ["--data", str(folder / "rows.jsonl"), "--output", str(folder / "out.jsonl")]
    if any("image" in row for row in rows):
        paths += ["--images", str(folder)]
    return [*paths, "--index", str(folder / "index")]


def run(capsys: pytest.CaptureFixture[str], command: str, *arguments: str) -> str:
    status = main(["data", command, *arguments])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out


def kept(folder: Path) -> list[Row]:
    out = folder / "out.jsonl"
    return read_rows(out, folder if '"image"' in out.read_text() else "")


def mislabelled(folder: Path) -> tuple[list[str], set[str]]:
    """120 rows, of which every tenth says another colour; the ids of these."""
    rng = np.random.default_rng(7)
    pictures, rows, wrong = {}, [], set()
    for number in range(120):
        colour = COLOURS[number % 4]
        pictures[f"p{number}"] = blot(rng, colour)
        if number % 10 == 0:
            wrong.add(f"r{number}")
            colour = COLOURS[(number + 1) % 4]
        rows.append({"id": f"r{number}", "image": f"p{number}.png", "question": QUESTION, "answer": colour})
    rows.append({"id": "text", "question": "what is a color?", "answer": "light"})
    return written(folder, rows, pictures), wrong


@pytest.mark.parametrize(("by", "least"), [("margin", "0"), ("agreement", "0.5")])
def test_score_leaves_out_what_is_mislabelled(
    by: str, least: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, wrong = mislabelled(tmp_path)
    told = run(capsys, "score", *paths, "--model", str(clip), "--by", by, "--least", least)
    left = {f"r{number}" for number in range(120)} | {"text"}
    gone = left - {row.id for row in kept(tmp_path)}
    assert len(gone & wrong) >= 11
    assert len(gone - wrong) <= 3
    assert "1 rows have no figure and stay" in told
    scores = [json.loads(line) for line in (tmp_path / "out.jsonl.scores").read_text().splitlines()]
    assert {each["id"] for each in scores if not each["kept"]} == gone
    assert scores[-1] == {"id": "text", by: None, "kept": True}
    assert {"sharpness", "contrast", "brightness", "width", "height"} < set(scores[0])


def test_score_drops_the_share_that_was_asked(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths, _ = mislabelled(tmp_path)
    told = run(capsys, "score", *paths, "--model", str(clip), "--by", "similarity", "--drop", "0.25")
    assert abs(len(kept(tmp_path)) - 91) <= 1
    assert "the worst: " in told


def test_score_by_sharpness_needs_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = {"good": photo(), "blurred": photo().filter(ImageFilter.GaussianBlur(4))}
    rows = [{"id": name, "image": f"{name}.png", "question": "q", "answer": "a"} for name in pictures]
    paths = written(tmp_path, rows, pictures)
    assert main(["data", "score", *paths]) == 2
    assert "--by margin: needs --model" in capsys.readouterr().err
    run(capsys, "score", *paths, "--by", "sharpness", "--drop", "0.5")
    assert [row.id for row in kept(tmp_path)] == ["good"]


def test_a_llava_reads_no_texts_and_gives_agreement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths, wrong = mislabelled(tmp_path)
    assert main(["data", "score", *paths, "--model", "models/tiny-llava"]) == 2
    assert "--by agreement" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
    run(capsys, "score", *paths, "--model", "models/tiny-llava", "--by", "agreement", "--least", "0.4")
    gone = 121 - len(kept(tmp_path))
    assert len(wrong) / 2 <= gone <= 40


def test_a_model_that_is_none_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths, _ = mislabelled(tmp_path)
    assert main(["data", "score", *paths, "--model", str(tmp_path)]) == 2
    assert f"--model {tmp_path}: no checkpoint that can be loaded" in capsys.readouterr().err


def test_embeddings_find_copies_that_hashes_do_not(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(3)
    pictures = {f"p{number}": blot(rng, COLOURS[number % 4]) for number in range(4)}
    pictures["flipped"] = ImageOps.mirror(pictures["p1"])
    rows = [{"image": f"{name}.png", "question": QUESTION, "answer": "a"} for name in pictures]
    paths = written(tmp_path, rows, pictures)
    run(capsys, "dedupe", *paths)
    assert len(kept(tmp_path)) == 5
    told = run(capsys, "dedupe", *paths, "--model", str(clip), "--similarity", "0.9")
    assert [Path(str(row.image)).stem for row in kept(tmp_path)] == ["p0", "p1", "p2", "p3"]
    assert "1 images are within --similarity 0.9 of an earlier one" in told


def photo(seed: int = 0) -> Image.Image:
    """Noise at several scales, which is what a photograph's detail is like."""
    rng = np.random.default_rng(seed)
    sizes = (4, 16, 64, 256)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8)).resize((256, 256)), dtype=np.float64
        )
        for size in sizes
    ]
    return Image.fromarray(np.mean(layers, axis=0).astype(np.uint8)).convert("RGB")


def test_filter_knows_blur_and_exposure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = {
        "good": photo(), "blurred": photo().filter(ImageFilter.GaussianBlur(4)),
        "dark": ImageEnhance.Brightness(photo()).enhance(0.03), "white": ImageOps.invert(Image.new("RGB", (64, 64))),
    }  # fmt: skip
    pictures["white"].putpixel((3, 3), (0, 0, 0))
    rows = [{"id": name, "image": f"{name}.png", "question": "q", "answer": "a"} for name in pictures]
    options = ["--min-sharpness", "30", "--min-brightness", "20", "--max-brightness", "250", "--min-contrast", "0"]
    told = run(capsys, "filter", *written(tmp_path, rows, pictures), *options)
    assert [row.id for row in kept(tmp_path)] == ["good"]
    assert "blurred: sharpness under --min-sharpness 30: blurred" in told
    assert "pale: brightness over --max-brightness 250: white" in told


def no_names(row: Row) -> str | None:
    """The hook of the test below."""
    return "names a person" if "Ann" in row.answer else None


def test_a_hook_has_the_last_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": answer, "question": "who?", "answer": answer} for answer in ("Ann", "nobody")]
    paths = written(tmp_path, rows, {})
    told = run(capsys, "filter", *paths, "--hook", "tests.trainer.data.test_curation:no_names")
    assert [row.id for row in kept(tmp_path)] == ["nobody"]
    assert "1 x dropped, names a person: Ann" in told
    for hook, said in (("no.such:f", "No module named"), ("json:f", "no function 'f'"), ("json", "no function")):
        assert main(["data", "filter", *paths, "--hook", hook]) == 2
        assert said in capsys.readouterr().err


def test_the_rule_in_the_docs_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path("docs/how-to/curation.md").read_text()
    block = text[text.index("    # rules.py") : text.index("    python -m trainer data filter --data")]
    (tmp_path / "rules_of_docs.py").write_text(textwrap.dedent(block))
    monkeypatch.syspath_prepend(tmp_path)
    answers = ("call +41 44 123 45 67", "ann@example.org", "three 2024 cars")
    paths = written(tmp_path / "set", [{"id": each, "question": "q?", "answer": each} for each in answers], {})
    run(capsys, "filter", *paths, "--hook", "rules_of_docs:private")
    assert [row.id for row in kept(tmp_path / "set")] == ["three 2024 cars"]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20), st.floats(0.01, 1))
def test_a_cap_keeps_every_group_within_its_share_and_as_many_rows_as_it_can(sizes: list[int], share: float) -> None:
    rows = np.array(sizes)
    most = cap(rows, share)
    kept = np.minimum(rows, most)
    if len(sizes) * share > 1:
        assert kept.max() <= max(share * kept.sum() + 1e-6, rows.min())
        more = np.minimum(rows, most + 1)
        assert most >= rows.max() or more.max() > share * more.sum() - 1e-6
    else:
        assert len(set(kept)) == 1


def test_balance_tells_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": f"{number}", "question": f"q{number}?", "answer": "Yes" if number % 10 < 7 else "no", "category": "c"}
        for number in range(100)
    ]
    paths = written(tmp_path, rows, {})
    told = run(capsys, "balance", *paths)
    assert Counter(row.answer for row in kept(tmp_path)) == {"Yes": 30, "no": 30}
    assert "answer 'yes': 40 of 70 rows left out; 70.0% of the rows before, 50.0% now" in told
    first = [row.id for row in kept(tmp_path)]
    assert first == sorted(first, key=int)
    run(capsys, "balance", *paths, "--seed", "1")
    assert [row.id for row in kept(tmp_path)] != first


def test_balance_within_a_question_looks_at_its_own_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = {"is it red?": ["yes"] * 8 + ["no"] * 2, "is it blue?": ["no"] * 8 + ["yes"] * 2}
    rows = [{"question": question, "answer": answer} for question, said in answers.items() for answer in said]
    run(capsys, "balance", *written(tmp_path, rows, {}), "--within", "question")
    found = Counter((row.question, row.answer) for row in kept(tmp_path))
    assert set(found.values()) == {2}


def test_balance_of_looks_thins_what_there_is_much_of(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(5)
    colours = ["red"] * 40 + ["green"] * 8 + ["blue"] * 8
    pictures = {f"{number}": blot(rng, colour) for number, colour in enumerate(colours)}
    rows = [{"image": f"{at}.png", "question": "q", "answer": "a", "category": colours[int(at)]} for at in pictures]
    paths = written(tmp_path, rows, pictures)
    assert main(["data", "balance", *paths, "--by", "cluster"]) == 2
    assert "--by cluster: needs --model" in capsys.readouterr().err
    options = ["--by", "cluster", "--clusters", "3", "--model", str(clip), "--most-share", "0.4"]
    told = run(capsys, "balance", *paths, *options)
    counts = Counter(row.category for row in kept(tmp_path))
    assert counts["red"] < 20
    assert counts["green"] == counts["blue"] == 8
    assert "rows left out" in told


def test_near_pictures_are_the_same_by_faiss_and_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    base = rng.normal(size=(300, 200))
    vectors = np.concatenate([base, base + rng.normal(size=base.shape) * 0.05]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    space = Space((str(number), vector) for number, vector in enumerate(vectors))
    assert space.vectors.shape == (600, 128)
    _, exact = space.nearest(1)
    assert np.array_equal(exact[:, 0], (np.arange(600) + 300) % 600)
    monkeypatch.setattr("trainer.data.curation.neighbours._LARGE", 10)
    cosines, near = space.nearest(5)
    assert (near[:, 0] == exact[:, 0]).mean() > 0.99
    assert cosines.shape == near.shape == (600, 5)


def test_split_warns_of_copies_on_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = {f"{number}": photo(number % 10).resize((64 + number, 64)) for number in range(20)}
    rows = [{"image": f"{name}.png", "question": "q", "answer": "a"} for name in pictures]
    paths = [*written(tmp_path, rows, pictures), "--held-out", str(tmp_path / "held.jsonl"), "--holdout", "0.3"]
    told = run(capsys, "split", *paths)
    assert "held-out images look like images of the other side, such as " in told
    assert "look like" not in run(capsys, "split", *paths, "--no-look")
    paths[1] = str(tmp_path / "once.jsonl")
    files = ["--data", str(tmp_path / "rows.jsonl"), "--images", str(tmp_path), "--output", paths[1]]
    run(capsys, "dedupe", *files, "--index", str(tmp_path / "index"))
    assert "look like" not in run(capsys, "split", *paths)


def test_rows_whose_answers_do_not_agree_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {"one": ["red", "Red.", "blue"], "two": ["red", "blue", "green"], "plain": ["a", "a"]}
    rows = [{"id": name, "question": "q?", "answers": answers} for name, answers in said.items()]
    told = run(capsys, "filter", *written(tmp_path, rows, {}), "--agree", "0.6")
    assert [row.id for row in kept(tmp_path)] == ["one", "plain"]
    assert "fewer of its answers are the same than --agree 0.6 says: two" in told
