"""Pairs in forests have the loss and gradient of each answer in a sequence of its own, by formulas written out here."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.conftest import ROOT, png
from trainer.__main__ import main
from trainer.adapter.lora import add_lora
from trainer.config.training import TrainOptions
from trainer.data.files import read
from trainer.data.row import Row
from trainer.errors import DataError
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.forest import Batch, Trees, collate, grow
from trainer.model.pairs import Owners
from trainer.model.pictures import prepared
from trainer.model.tokens import encode
from trainer.training.preference import Answers, Preference, divergence
from trainer.training.reference import preference
from trainer.training.updates import Shares, Updates

MODEL = ROOT / "models/tiny-llava"


def options(**given: Any) -> TrainOptions:
    return TrainOptions.model_validate({"name": "pairs", "data": ["-"], "rank": 8, "method": "dpo", **given})


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.load(MODEL)


@pytest.fixture(scope="module")
def learning(checkpoint: Checkpoint) -> Any:
    """The base with a LoRA that has learnt something already: a new one has gradients of half its matrices alone."""
    model = add_lora(checkpoint.model, options())
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Five pairs about one picture, one of them after an earlier exchange, one about another, and one of text alone."""
    folder = tmp_path_factory.mktemp("pictures")
    said = [
        ("what color is the shape?", "red", "it is a blue circle"),
        ("is there a circle in the picture?", "yes", "no"),
        ("how many?", "one", "one or two"),
        ("which shape is this?", "a circle", "a square"),
    ]
    for colour in ("red", "green"):
        (folder / f"{colour}.png").write_bytes(png(colour, (60, 40)))
    red, green = (str(folder / f"{colour}.png") for colour in ("red", "green"))
    rows = [Row(f"{n}", red, q, chosen, "all", rejected=worse) for n, (q, chosen, worse) in enumerate(said)]
    rows.append(Row("talk", red, "and why?", "so it is", "all", history=(("is it so?", "yes"),), rejected="no"))
    rows.append(Row("green", green, "what color is the shape?", "green", "all", rejected="red"))
    rows.append(Row("text", None, "how many legs has a spider?", "eight", "all", rejected="six legs"))
    return rows


@pytest.fixture(scope="module")
def states(checkpoint: Checkpoint, pairs: list[Row]) -> States:
    return States.of(checkpoint, pairs)


def trees_of(checkpoint: Checkpoint, rows: Sequence[Row]) -> Trees:
    return grow(encode(rows, checkpoint.prompt, 64, form="paired"), 16)


def forests(trees: Trees, states: States) -> list[dict[str, torch.Tensor]]:
    """The trees in two forests, the first of which has two in one sequence."""
    parts = ([[0, 1]], [[tree] for tree in range(2, len(trees))])
    return [vars(collate(trees, part, states)) for part in parts]


def plainly(llava: Any, checkpoint: Checkpoint, row: Row, answer: str) -> torch.Tensor:
    """Log-probabilities of an answer's tokens by transformers' own forward of one sequence, from pixels."""
    ids, places = checkpoint.prompt.encode_conversation(
        (*row.history, (row.question, answer)), int(row.image is not None)
    )
    cut = ids.index(checkpoint.prompt.image_token_id) if row.image else 0
    spread = (*ids[:cut], *[ids[cut]] * (63 if row.image else 0), *ids[cut:], checkpoint.prompt.end_token_id)
    own = [place + (63 if row.image else 0) for place in (*places[-1], len(ids))]
    pixels: dict[str, torch.Tensor] = {}
    if row.image:
        picture = prepared(read(row.image), "", row.image, checkpoint.preparation)
        pixels["pixel_values"] = checkpoint.processor(images=[picture], return_tensors="pt").pixel_values
    logits = llava(input_ids=torch.tensor([spread]), **pixels).logits[0].log_softmax(-1)
    return torch.stack([logits[place - 1, spread[place]] for place in own])


def both(llava: Any, checkpoint: Checkpoint, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    assert row.rejected is not None
    return plainly(llava, checkpoint, row, row.answer), plainly(llava, checkpoint, row, row.rejected)


def gradient(model: Any) -> torch.Tensor:
    """All gradients in one vector, taken off the model."""
    found = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
    model.zero_grad()
    return found


def log_s(value: torch.Tensor) -> torch.Tensor:
    return torch.log(1 / (1 + torch.exp(-value)))


def dpo(said: tuple[torch.Tensor, ...], before: tuple[torch.Tensor, ...]) -> torch.Tensor:
    chosen, rejected = (ours.sum() - theirs.sum() for ours, theirs in zip(said, before, strict=True))
    return -log_s(0.3 * (chosen - rejected)) - 0.2 * said[0].mean()


def simpo(said: tuple[torch.Tensor, ...], _before: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return -log_s(1.5 * (said[0].mean() - said[1].mean()) - 0.5)


def orpo(said: tuple[torch.Tensor, ...], _before: tuple[torch.Tensor, ...]) -> torch.Tensor:
    chosen, rejected = (each.mean().exp() for each in said)
    odds = torch.log((chosen / (1 - chosen)) / (rejected / (1 - rejected)))
    return -said[0].mean() - 0.4 * log_s(odds)


@pytest.mark.parametrize(
    ("given", "formula"),
    [
        ({"method": "dpo", "beta": 0.3, "sft_weight": 0.2}, dpo),
        ({"method": "simpo", "beta": 1.5, "gamma": 0.5}, simpo),
        ({"method": "orpo", "beta": 0.4}, orpo),
    ],
)
def test_loss_and_gradient_are_those_of_separate_sequences(
    given: dict[str, Any], formula: Any, checkpoint: Checkpoint, learning: Any, pairs: list[Row], states: States
) -> None:
    with torch.no_grad(), learning.disable_adapter():
        before = [both(learning, checkpoint, row) for row in pairs]
    apart = torch.stack(
        [formula(both(learning, checkpoint, row), known) for row, known in zip(pairs, before, strict=True)]
    )
    apart.sum().backward()  # type: ignore[no-untyped-call]
    expected = gradient(learning)

    trees = trees_of(checkpoint, pairs)
    asked = options(**given)
    reference = None
    if asked.method == "dpo":
        with torch.no_grad(), learning.disable_adapter():
            reference = torch.zeros(int(trees.tokens.answer_starts[-1]))
            for forest in forests(trees, states):
                reference[forest["numbers"]] = learning(**forest, each=True)
    answers = Answers(Owners(trees.tokens, torch.device("cpu")), reference)
    objective = Preference(asked, answers, answers)
    together = torch.stack([objective(learning, forest)[0] for forest in forests(trees, states)]).sum()
    together.backward()  # type: ignore[no-untyped-call]
    found = gradient(learning)

    assert together.item() == pytest.approx(apart.sum().item(), abs=1e-4)
    assert float((found - expected).norm() / expected.norm()) < 1e-4


def test_both_answers_share_picture_and_question(checkpoint: Checkpoint, pairs: list[Row], states: States) -> None:
    trees = trees_of(checkpoint, pairs)
    batch = collate(trees, [[tree] for tree in range(len(trees))], states)
    assert sorted((batch.token_ids == checkpoint.prompt.image_token_id).sum(1).tolist()) == [0, 64, 64]
    prompt = checkpoint.prompt
    once = 64 - 1 + len(prompt.encode(pairs[0].question))
    for row in pairs[:4]:
        assert row.rejected is not None
        question = len(prompt.encode(row.question)) - len(prompt.encode(pairs[0].question))
        answers = [len(prompt.encode_answer(row.question, said)) - 1 for said in (row.answer, row.rejected)]
        alone = trees_of(checkpoint, [row])
        assert int(alone.lengths[0]) == once + question + sum(answers)


def test_an_answer_sees_nothing_of_the_other(
    checkpoint: Checkpoint, learning: Any, pairs: list[Row], states: States
) -> None:
    """Another rejected answer leaves every log-probability of the chosen one as it was."""

    def chosen(rejected: str) -> torch.Tensor:
        trees = trees_of(checkpoint, [pairs[0], Row("x", pairs[0].image, "how?", "so", "all", rejected=rejected)])
        forest = vars(collate(trees, [[0]], states))
        with torch.no_grad():
            log_probs = learning(**forest, each=True)
        owners = torch.from_numpy(trees.tokens.answer_owners)[forest["numbers"]]
        return torch.cat([log_probs[owners == owner] for owner in (0, 1, 2)])

    assert torch.allclose(chosen("one"), chosen("quite another one"), atol=1e-5)


def test_answers_that_begin_alike_are_still_two(checkpoint: Checkpoint, learning: Any, states: States) -> None:
    row = Row("text", None, "how many?", "one", "all", rejected="one or two")
    forest = vars(collate(trees_of(checkpoint, [row]), [[0]], states))
    with torch.no_grad():
        found = learning(**forest, each=True)
        expected = both(learning, checkpoint, row)
    owners = torch.from_numpy(trees_of(checkpoint, [row]).tokens.answer_owners)[forest["numbers"]]
    for side, said in enumerate(expected):
        assert torch.allclose(found[owners == side], said, atol=1e-5)


def test_figures_say_what_the_pairs_came_to(
    checkpoint: Checkpoint, learning: Any, pairs: list[Row], states: States
) -> None:
    """Against a reference that is the model itself nothing is preferred; against one that moved, something is."""
    trees = trees_of(checkpoint, pairs)
    own = torch.zeros(int(trees.tokens.answer_starts[-1]))
    with torch.no_grad():
        for forest in forests(trees, states):
            own[forest["numbers"]] = learning(**forest, each=True)
    owners = Owners(trees.tokens, torch.device("cpu"))
    rejected = torch.from_numpy(trees.tokens.answer_owners % 2).float()

    def figures(reference: torch.Tensor) -> dict[str, float]:
        answers = Answers(owners, reference)
        objective = Preference(options(beta=0.5), answers, answers)
        with torch.no_grad():
            found = [objective(learning, forest) for forest in forests(trees, states)]
        names = found[0][1]
        return {name: sum(float(each[name]) for _, each in found) for name in names} | {
            "loss": sum(float(loss) for loss, _ in found)
        }

    same = figures(own)
    assert same["loss"] == pytest.approx(len(pairs) * math.log(2), abs=1e-4)
    assert all(abs(same[name]) < 1e-4 for name in ("preference", "margin", "chosen", "rejected", "kl"))
    moved = figures(own + rejected)  # the reference found every token of a rejected answer likelier, by one nat
    assert moved["preference"] == len(pairs)
    assert moved["margin"] == pytest.approx(0.5 * float(rejected.sum()), rel=1e-4)
    assert moved["chosen"] == pytest.approx(0, abs=1e-4)
    assert moved["kl"] > 0


def test_divergence_is_no_more_than_that_of_whole_distributions() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 200, 30).mul(3).log_softmax(-1).unbind(0)
    whole = (ours.exp() * (ours - theirs)).sum(-1)
    for token in range(30):
        least = divergence(ours[:, token], theirs[:, token])
        assert (least <= whole + 1e-5).all()
        assert (least >= -1e-6).all()
    assert float(divergence(torch.zeros(1), torch.zeros(1))) == 0  # a token that is certain in both


def test_rows_of_the_other_kind_are_named(checkpoint: Checkpoint, pairs: list[Row]) -> None:
    single = Row("s", None, "q", "a", "all", place="rows.jsonl:7")
    with pytest.raises(DataError, match=r"rows\.jsonl:7: has no rejected answer"):
        encode([pairs[0], single], checkpoint.prompt, 64, form="paired")
    with pytest.raises(DataError, match="is a pair of answers, which --method dpo learns from"):
        encode([pairs[0], single], checkpoint.prompt, 64)


def test_a_pair_is_as_long_as_its_longer_answer(checkpoint: Checkpoint, pairs: list[Row]) -> None:
    prompt, row = checkpoint.prompt, pairs[-1]
    assert row.rejected is not None
    answers = [len(prompt.encode_answer(row.question, said, 0)) for said in (row.answer, row.rejected)]
    longest = len(prompt.encode(row.question, 0)) + max(answers)
    assert len(encode([row], prompt, 64, longest, "paired")) == 1
    with pytest.raises(DataError, match=f"comes to {longest} tokens"):
        encode([row], prompt, 64, longest - 1, "paired")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"method": "sft", "beta": 0.2}, "--beta: is of --method dpo and orpo and simpo, and this is sft"),
        ({"method": "sft", "sft_weight": 0.2}, "--sft-weight: is of --method dpo and simpo"),
        ({"method": "orpo", "sft_weight": 0.2}, "--sft-weight: is of --method dpo and simpo, and this is orpo"),
        ({"method": "dpo", "gamma": 0.5}, "--gamma: is of --method simpo"),
        ({"method": "sft", "gate": "preference"}, "--gate preference: is of pairs"),
    ],
)
def test_options_of_another_method_are_refused_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        options(**given)


def test_the_reference_is_computed_once_and_read_where_a_run_goes_on(
    checkpoint: Checkpoint, pairs: list[Row], states: States, tmp_path: Path
) -> None:
    trees = trees_of(checkpoint, pairs)
    lessons: Any = SimpleNamespace(trees=trees, held_out=trees, sight=states, budget=512, bend=64.0)
    calls = []

    class Counted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = checkpoint.model

        def forward(self, **inputs: Any) -> Any:
            calls.append(1)
            return self.inner(**inputs)

    made = preference(options(), Counted(), checkpoint.precision, lessons, tmp_path)
    first = len(calls)
    read_ = preference(options(resume=True), Counted(), checkpoint.precision, lessons, tmp_path)
    assert first
    assert len(calls) == first
    for one, two in ((made._trained, read_._trained), (made._held_out, read_._held_out)):
        assert one.reference is not None
        assert two.reference is not None
        assert torch.equal(one.reference, two.reference)
    order = Updates(trees, 64, None)
    forest = Shares(order, trees, 512, 64.0, states)[0]["forests"][0]
    assert made._trained.reference is not None
    with torch.no_grad():
        again = checkpoint.model(**vars(Batch(**forest)), each=True)
    assert torch.allclose(made._trained.reference[forest["numbers"]], again, atol=1e-5)
    preference(options(method="simpo"), Counted(), checkpoint.precision, lessons, tmp_path)
    assert len(calls) == first  # without a reference nothing is computed


@pytest.fixture(scope="module")
def corrected(codes: Path) -> Path:
    """Pairs about the codes: the right number, and the next one."""
    lines = map(json.loads, (codes / "train.jsonl").read_text().splitlines())
    rows = [
        {key: row[key] for key in ("image", "question")}
        | {"chosen": row["answer"], "rejected": str(int(row["answer"]) % 6 + 1)}
        for row in lines
    ]
    (codes / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return codes / "pairs.jsonl"


def test_pairs_become_a_published_adapter(corrected: Path, tmp_path: Path) -> None:
    given: dict[str, object] = {
        "--data": corrected,
        "--images": corrected.parent,
        "--store": tmp_path / "store",
        "--output": tmp_path / "run",
        "--model": MODEL,
        "--feature-cache": tmp_path / "features",
        "--epochs": 6,
        "--rows-per-step": 16,
        "--learning-rate": 3e-3,
        "--holdout": 0.2,
        "--sft-weight": 1,
        "--beta": 0.5,
        "--precision": "float32",
    }
    words = ["train", "--name", "codes", "--method", "dpo", *(str(word) for each in given.items() for word in each)]
    assert main(words) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    first, last = ([line for line in lines if "loss" in line][place] for place in (0, -1))
    assert first["loss"] > math.log(2)  # that of the pairs, and more of the likelihood
    assert first["margin"] == pytest.approx(0, abs=1e-4)
    assert last["margin"] > 0.5
    assert last["kl"] > 0
    held_out = [line for line in lines if "eval_loss" in line][-1]
    assert held_out["eval_preference"] > 0.7
    (version,) = (tmp_path / "store/codes/versions").iterdir()
    manifest = json.loads((version / "manifest.json").read_text())
    assert manifest["gate"]["metric"] == "preference"
    assert manifest["gate"]["adapter"] > manifest["gate"]["base"]
    assert manifest["score"]["adapter"] >= manifest["score"]["base"]
