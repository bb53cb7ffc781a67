"""A probe is what the service will answer too: the beginning of an answer of which its trainer is sure."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from service.adapters.manifest import PROBE_TOKENS, Manifest, Probe
from service.adapters.store import Store
from service.images import Preparation
from service.prompt import Prompt
from tests.conftest import ROOT
from trainer.__main__ import main
from trainer.data.row import Row
from trainer.errors import NoGain
from trainer.evaluation.generate import Prediction
from trainer.evaluation.probes import PROBES, SURE, choose_probes

MODEL = ROOT / "models/tiny-llava"
PROMPT = Prompt(MODEL)


def row(number: int = 0, answer: str = "red") -> Row:
    return Row(str(number), None, f"q{number}", answer, "all")


def said(text: str, *leads: float, most: int = PROBE_TOKENS) -> Prediction:
    """An answer whose first tokens lead by `leads` and the others by 5; cut after `most` tokens."""
    token_ids = PROMPT.encode_answer("q", text)[:most]
    return Prediction(PROMPT.decode(token_ids), token_ids, (*leads, *[5.0] * len(token_ids))[: len(token_ids)], 1.0)


def probes(base: Sequence[Prediction], adapter: Sequence[Prediction]) -> tuple[Probe, ...]:
    rows = [row(number) for number in range(len(base))]
    return choose_probes(rows, base, adapter, PROMPT, Preparation.of_checkpoint(MODEL))


def test_an_answer_is_recorded_to_its_end_and_in_its_tokens() -> None:
    (probe,) = probes([said("blue")], [said("red")])
    assert (probe.question, probe.base_answer, probe.adapter_answer) == ("q0", "blue", "red")
    assert probe.tokens == len(PROMPT.encode_answer("q", "red"))


def test_an_answer_that_was_cut_is_a_probe_of_as_many_tokens() -> None:
    (probe,) = probes([said("a small disc", most=3)], [said("one red disc on white", most=3)])
    assert probe.tokens == 3
    assert "one red disc on white".startswith(probe.adapter_answer)


def test_a_probe_ends_before_the_first_token_of_which_the_adapter_is_not_sure() -> None:
    (probe,) = probes([said("a disc")], [said("one red disc on white", 5, 5, SURE / 2)])
    assert probe.tokens == 2
    assert probe.adapter_answer == PROMPT.decode(PROMPT.encode_answer("q", "one red disc on white")[:2])


def test_answers_that_differ_after_the_first_unsure_token_only_are_taken_where_there_are_no_others() -> None:
    base, early = [said("a red disc")] * 2, said("one red disc", 5, 5)
    late = said("a red circle", 0.1)
    (probe,) = probes(base, [late, early])
    assert probe.question == "q1"
    (probe,) = probes(base[:1], [late])
    assert probe.adapter_answer == "a red circle"


def test_where_no_sure_tokens_differ_a_probe_ends_at_the_first_that_does() -> None:
    base = said("a red disc")
    (probe,) = probes([base], [said("a red circle on white", 5, 5, SURE / 2)])
    differs = probe.tokens
    assert probe.adapter_answer[:-1] in "a red circle"
    assert PROMPT.encode_answer("q", "a red circle on white")[: differs - 1] == base.token_ids[: differs - 1]
    (probe,) = probes([base, base], [said("one red disc", SURE / 2), said("one red disc", 5, 5, SURE / 2)])
    assert (probe.question, probe.tokens) == ("q1", 2)


def test_an_unsure_letter_of_several_bytes_is_a_probe_all_the_same() -> None:
    (probe,) = probes([said("\u4e16")], [said("\u754c", SURE / 2)])
    assert probe.adapter_answer == "\u754c"


def test_a_probe_does_not_end_within_a_letter_of_several_bytes() -> None:
    whole = said("red \u4e16\u754c")
    for most in range(1, len(whole.token_ids) + 1):
        (probe,) = probes([said("blue")], [said("red \u4e16\u754c", most=most)])
        assert not probe.adapter_answer.endswith("\ufffd")
        assert probe.tokens <= most


def test_same_beginnings_are_no_probe_and_the_surest_come_first() -> None:
    base = [said("blue")] * 6
    adapter = [said("blue"), *(said("red", number) for number in (1, 5, 4, 3, 2))]
    found = probes(base, adapter)
    assert [probe.question for probe in found] == ["q2", "q3", "q4", "q5"]
    assert len(found) == PROBES
    with pytest.raises(NoGain, match="answers 6 questions as its base does"):
        probes(base, base)


def test_a_row_that_follows_on_others_is_no_probe() -> None:
    history = Row("0", None, "q", "red", "all", "", (("q", "a"),))
    with pytest.raises(NoGain):
        choose_probes([history], [said("blue")], [said("red")], PROMPT, Preparation.of_checkpoint(MODEL))


def test_published_in_few_tokens_the_manifest_says_how_many(tmp_path: Path) -> None:
    adapter = next((ROOT / "models/adapters/shapes/versions").iterdir())
    store = tmp_path / "store"
    asked = ["--name", "few", "--adapter", str(adapter), "--model", str(MODEL), "--store", str(store)]
    assert main(["publish", *asked, "--max-tokens", "2"]) == 0
    file = Store(store).stable("few").path / "manifest.json"
    assert all(probe.tokens <= 2 for probe in Manifest.model_validate_json(file.read_bytes()).probes)


def test_a_beginning_that_says_nothing_is_no_probe() -> None:
    silent = said("42", 5, SURE / 2)
    assert PROMPT.decode(silent.token_ids[:1]) == ""
    (probe,) = probes([said("a"), said("a")], [silent, said("red")])
    assert (probe.question, probe.adapter_answer) == ("q1", "red")
