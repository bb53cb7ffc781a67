r"""How right one answer is, as a number from 0 to 1; knows the right answers and a given one, no rows and no models.

Each metric of `METRICS` compares two texts. `best` takes the highest over several right answers, as DocVQA's ANLS and
SQuAD's F1 do; `vqa_accuracy` counts how many of ten people gave the answer.

    exact        1 where the texts are the same but for space around them.
    normalised   1 where both are the same after the normalisation of the VQA evaluation (Antol et al., "VQA: Visual
                 Question Answering", ICCV 2015, and its published vqaEval.py): lower case, punctuation, articles and
                 spelt-out numbers up to ten.
    anls         Average Normalised Levenshtein Similarity (Biten et al., "Scene Text Visual Question Answering", ICCV
                 2019): with d the edit distance of the lower-cased texts over the longer's length, 1 - d where d < 0.5,
                 else 0.
    relaxed      ChartQA's relaxed accuracy (Masry et al., ACL 2022, after Methani et al., PlotQA, 2020): a number t is
                 met by a number p where |p - t| <= 0.05 |t|, "12%" being 0.12; any other answer only by the same
                 text in either case.
    f1           SQuAD's F1 of words (Rajpurkar et al., EMNLP 2016, and its published evaluate-v2.0.py): the harmonic
                 mean of precision and recall after lower case, without ASCII punctuation and articles.

Where the rules of VQA would take a meaning away we keep it: a minus in front of a number stays, an answer that is
nothing but an article or punctuation (the choice "A") stays, and apostrophes go rather than being put where a list of
contractions has them.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal

from rapidfuzz.distance import Levenshtein

TOLERANCE = Decimal("0.05")
ANLS_THRESHOLD = 0.5
# So many answers to a question, or more, are people's votes, as VQA, VizWiz, TextVQA and OK-VQA collect them.
VOTES = 10
# An answer that so many of the other people gave has accuracy 1 (Antol et al., ICCV 2015, section 3).
_AGREEING = 3

_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_WORDS = {"none": "0"} | {word: str(value) for value, word in enumerate(_NUMBERS)}
_ARTICLES = ("a", "an", "the")
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
# In place of a minus sign while other dashes are removed; no text has it, or it is removed with the apostrophes.
_MINUS = "\ufdd0"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d{1,3})?")


def exact(expected: str, answer: str) -> float:
    """1 where the texts are the same but for space around them, else 0."""
    return float(answer.strip() == expected.strip())


def normalised(expected: str, answer: str) -> float:
    """1 where the texts are the same after `normalise`, else 0."""
    return float(normalise(answer) == normalise(expected))


def anls(expected: str, answer: str) -> float:
    """Normalised Levenshtein similarity, 0 from a distance of half the longer text on."""
    distance = Levenshtein.normalized_distance(_folded(expected), _folded(answer))
    return 1.0 - distance if distance < ANLS_THRESHOLD else 0.0


def relaxed(expected: str, answer: str) -> float:
    """1 where both are numbers at most 5% of the expected one apart, or the same text in either case; else 0."""
    target, found = _number(expected), _number(answer)
    if target is None or found is None:
        return float(_folded(answer) == _folded(expected))
    return float(abs(found - target) <= TOLERANCE * abs(target))


def f1(expected: str, answer: str) -> float:
    """Overlap of the words of both as SQuAD counts them: the harmonic mean of precision and recall."""
    target, found = Counter(_squad(expected)), Counter(_squad(answer))
    common = (target & found).total()
    return 2 * common / (target.total() + found.total()) if common else float(target == found)


Metric = Callable[[str, str], float]
METRICS: dict[str, Metric] = {"normalised": normalised, "exact": exact, "anls": anls, "relaxed": relaxed, "f1": f1}


def best(metric: Metric, expected: Sequence[str], answer: str) -> float:
    """The highest value of `metric` over all right answers, of which there is at least one."""
    return max(metric(each, answer) for each in expected)


def vqa_accuracy(expected: Sequence[str], answer: str) -> float:
    """VQA's accuracy: of `VOTES` or more people's answers min(agreeing / 3, 1), else 1 where any of them is met.

    As the published vqaEval.py does, each person's answer is left out in turn and the values are averaged: an answer
    that one of ten gave has 0.3, two 0.6, three 0.9, four and more 1. Answers are compared after `normalise`.
    """
    said, given = normalise(answer), [normalise(each) for each in expected]
    agreeing = given.count(said)
    if len(given) < VOTES:
        return float(agreeing > 0)
    left_out = [agreeing - (each == said) for each in given]
    return sum(min(others / _AGREEING, 1.0) for others in left_out) / len(given)


def normalise(text: str) -> str:
    """`text` as VQA's evaluation compares it, see above; normalised once more it stays the same."""
    whole = _folded(text)
    spaced = re.sub(rf"['’{_MINUS}]", "", whole)
    spaced = re.sub(r"(?<!\S)-(?=\.?\d)", _MINUS, spaced)
    # A mark next to a space anywhere, or a comma inside a number, goes; otherwise it parts two words.
    thousands = re.search(r"\d,\d", spaced) is not None
    for mark in _MARKS:
        apart = not thousands and f"{mark} " not in spaced and f" {mark}" not in spaced
        spaced = spaced.replace(mark, " " if apart else "")
    spaced = re.sub(r"\.(?!\d)", "", spaced).replace(_MINUS, "-")
    words = (_WORDS.get(word, word) for word in spaced.split())
    return " ".join(word for word in words if word not in _ARTICLES) or whole


def _squad(text: str) -> list[str]:
    """The words of a text in lower case, without ASCII punctuation and articles."""
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return [word for word in plain.split() if word not in _ARTICLES]


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _number(text: str) -> Decimal | None:
    """The number that all of `text` is, "1,200", "12%" and "7." among them."""
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", _folded(text).rstrip("."))
    share = plain.endswith("%")
    digits = plain.rstrip("% ")
    if not _NUMBER.fullmatch(digits):
        return None
    return Decimal(digits) / 100 if share else Decimal(digits)
