r"""How right one answer is, as a number from 0 to 1; knows an expected text and a given one, no rows and no models.

    exact        1 where the texts are the same but for space around them.
    normalised   1 where both are the same after the normalisation of the VQA evaluation (Antol et al., "VQA: Visual
                 Question Answering", ICCV 2015, and its published vqaEval.py): lower case, punctuation, articles and
                 spelt-out numbers up to ten. VQA's min(agreeing / 3, 1) over ten people's answers is 1 or 0 with one.
    anls         Average Normalised Levenshtein Similarity (Biten et al., "Scene Text Visual Question Answering", ICCV
                 2019): with d the edit distance of the lower-cased texts over the longer's length, 1 - d where d < 0.5,
                 else 0.
    relaxed      ChartQA's relaxed accuracy (Masry et al., ACL 2022, after Methani et al., PlotQA, 2020): a number t is
                 met by a number p where |p - t| <= 0.05 |t|, "12%" being 0.12; any other answer only by the same
                 text in either case.

Where the rules of VQA would take a meaning away we keep it: a minus in front of a number stays, an answer that is
nothing but an article or punctuation (the choice "A") stays, and apostrophes go rather than being put where a list of
contractions has them.
"""

import re
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

from rapidfuzz.distance import Levenshtein

TOLERANCE = Decimal("0.05")
ANLS_THRESHOLD = 0.5

_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_WORDS = {"none": "0"} | {word: str(value) for value, word in enumerate(_NUMBERS)}
_ARTICLES = ("a", "an", "the")
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
# In place of a minus sign while other dashes are removed; no text has it, or it is removed with the apostrophes.
_MINUS = "\ufdd0"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d{1,3})?")


def exact(expected: str, answer: str) -> float:
    """Whether the texts are the same but for space around them."""
    return float(answer.strip() == expected.strip())


def normalised(expected: str, answer: str) -> float:
    """Whether the texts are the same after `normalise`."""
    return float(normalise(answer) == normalise(expected))


def anls(expected: str, answer: str) -> float:
    """Normalised Levenshtein similarity, 0 from a distance of half the longer text on."""
    distance = Levenshtein.normalized_distance(_folded(expected), _folded(answer))
    return 1.0 - distance if distance < ANLS_THRESHOLD else 0.0


def relaxed(expected: str, answer: str) -> float:
    """Whether a number is met within 5% of it, and any other text in either case."""
    target, found = _number(expected), _number(answer)
    if target is None or found is None:
        return float(_folded(answer) == _folded(expected))
    return float(abs(found - target) <= TOLERANCE * abs(target))


def f1(expected: str, answer: str) -> float:
    """Overlap of the words of both after `normalise`: the harmonic mean of precision and recall, as SQuAD has it.

    Rajpurkar et al. 2016, arXiv 1606.05250.
    """
    target, found = Counter(normalise(expected).split()), Counter(normalise(answer).split())
    common = (target & found).total()
    return 2 * common / (target.total() + found.total()) if common else float(target == found)


Metric = Callable[[str, str], float]
METRICS: dict[str, Metric] = {"normalised": normalised, "exact": exact, "anls": anls, "relaxed": relaxed, "f1": f1}


def normalise(text: str) -> str:
    """`text` as VQA's evaluation compares it; `normalise` of the result is the result."""
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
