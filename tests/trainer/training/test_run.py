"""A run's directory: held by one process, gone on from with its own options and data alone, and nothing in it lost."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from tests.interrupted import interrupted_after
from tests.trainer.test_cli import run
from trainer.config.training import AlignOptions, TrainOptions, TuneOptions
from trainer.errors import OptionError
from trainer.training.arguments import arguments_of, one_device
from trainer.training.checkpoints import MARK, Checkpoints, complete, last_complete
from trainer.training.loop import TreeTrainer
from trainer.training.run import FREE, LEARNT, NAMED, WATCHED, begin, cut_log, owned

QUICK = ["--max-steps", "4", "--save-steps", "2", "--rows-per-step", "16", "--holdout", "0.2", "--precision", "float32"]
HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("process 4711 of elsewhere", file=file, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


def options(**changed: Any) -> TrainOptions:
    return TrainOptions.model_validate({"name": "x", "data": "d.jsonl", "images": "i"} | changed)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A run's directory that another process holds."""
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run/lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield tmp_path / "run"
        process.kill()


def test_a_directory_that_another_training_holds_is_refused_and_free_when_that_is_killed(held: Path) -> None:
    with pytest.raises(OptionError, match="in use by process 4711 of elsewhere"), owned(held):
        pass


def test_a_directory_is_free_again_when_its_training_has_ended(tmp_path: Path) -> None:
    for _ in range(2):
        with owned(tmp_path / "run"):
            assert "process" in (tmp_path / "run/lock").read_text()
        assert (tmp_path / "run/lock").read_text() == ""


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 5}, "--seed was 0 and is 5 now"),
        ({"holdout": 0.3}, "--holdout was 0.1 and is 0.3 now"),
        ({"rank": 8}, "--rank was 16 and is 8 now"),
        ({"learning_rate": 1e-3}, "--learning-rate was 0.0002 and is 0.001 now"),
        ({"epochs": 8}, "--epochs was 3.0 and is 8.0 now"),
        ({"targets": ["q_proj"]}, r"--targets was \[.*\] and is \[\"q_proj\"\] now"),
        ({"seed": 5, "rank": 8}, "--seed .*; --rank |--rank .*; --seed "),
    ],
)
def test_going_on_with_other_options_is_refused_by_name(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    begin(tmp_path, options(), {"data": "1", "model": "m"}, resume=False)
    with pytest.raises(OptionError, match=words):
        begin(tmp_path, options(**changed), {"data": "1", "model": "m"}, resume=True)


@pytest.mark.parametrize("named", ["data", "model", "eval-data", "init-adapter"])
def test_going_on_with_other_data_or_base_is_refused_by_name(tmp_path: Path, named: str) -> None:
    begin(tmp_path, options(), {"data": "1", "model": "m"} | {named: "1"}, resume=False)
    with pytest.raises(OptionError, match=f"--{named} names something else"):
        begin(tmp_path, options(), {"data": "1", "model": "m"} | {named: "2"}, resume=True)


def test_what_does_not_shape_the_weights_may_change(tmp_path: Path) -> None:
    begin(tmp_path, options(), {"data": "1"}, resume=False)
    now = options(
        store="elsewhere", data="moved.jsonl", log_steps=2, save_steps=3, gate="loss", max_tokens=9, blind_rows=0
    )
    begin(tmp_path, now, {"data": "1"}, resume=True)
    now = options(
        workers=2, feature_cache_gb=1.5, feature_cache="elsewhere", score_rows=10, gradient_checkpointing=True
    )
    begin(tmp_path, now, {"data": "1"}, resume=True)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"alpha": 32}),
        ({"alpha": 32}, {}),
        ({"rank": 8}, {"rank": 8, "alpha": 16}),
        ({"experts": "mixture"}, {"experts": "mixture", "table_rate": 2e-3}),
        ({"method": "dpo"}, {"method": "dpo", "beta": 0.1}),
    ],
)
def test_a_default_that_other_options_decide_is_the_number_that_it_is(
    tmp_path: Path, first: dict[str, Any], then: dict[str, Any]
) -> None:
    begin(tmp_path, options(**first), {"data": "1"}, resume=False)
    begin(tmp_path, options(**then), {"data": "1"}, resume=True)


def test_another_number_than_that_default_is_refused(tmp_path: Path) -> None:
    begin(tmp_path, options(), {"data": "1"}, resume=False)
    with pytest.raises(OptionError, match=r"--alpha was None and is 16\.0 now"):
        begin(tmp_path, options(alpha=16), {"data": "1"}, resume=True)


def test_where_the_held_out_loss_is_taken_shapes_what_patience_keeps(tmp_path: Path) -> None:
    begin(tmp_path, options(patience=2), {"data": "1"}, resume=False)
    for changed, words in (({"save_steps": 3}, "--save-steps was None and is 3"), ({"score_rows": 9}, "--score-rows")):
        with pytest.raises(OptionError, match=words):
            begin(tmp_path, options(patience=2, **changed), {"data": "1"}, resume=True)


# What makes other weights, if only by the order of a sum.
SHAPING = {
    *("holdout", "seed", "epochs", "max_steps", "learning_rate", "warmup", "schedule", "weight_decay", "clip"),
    *("optimizer", "rows_per_step", "tokens", "patience", "group_by_modality", "precision", "no_feature_cache"),
    *("rank", "alpha", "rslora", "rank_pattern", "alpha_pattern", "nf4", "dropout", "targets"),
    *("method", "beta", "gamma", "sft_weight", "experts", "temperature", "table_rate", "text_share"),
}


def test_of_every_option_it_is_known_whether_it_shapes_the_weights() -> None:
    """A new option has to be put on one side: it fails here until it is."""
    known = [FREE, NAMED, WATCHED, SHAPING]
    every = {name for kind in (TrainOptions, AlignOptions, TuneOptions) for name in kind.model_fields}
    assert set().union(*known) == every
    assert sum(map(len, known)) == len(every)


def test_going_on_from_a_run_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    begin(made(tmp_path / "codes"), options(), {}, resume=False)
    with pytest.raises(OptionError, match=r"typo holds no run .*holds codes\)"):
        begin(made(tmp_path / "typo"), options(), {}, resume=True)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_beginning_afresh_keeps_what_an_earlier_run_left(tmp_path: Path) -> None:
    begin(tmp_path, options(), {}, resume=False)
    checkpoint(tmp_path, 72)
    (tmp_path / "log.jsonl").write_text("{}\n")
    begin(tmp_path, options(seed=1), {}, resume=False)
    assert complete(tmp_path) == []
    assert not (tmp_path / "log.jsonl").exists()
    assert [path.name for path in complete(tmp_path / "before")] == ["checkpoint-72"]
    assert json.loads((tmp_path / "before/run.json").read_text())["options"]["seed"] == 0


def test_a_run_that_learnt_nothing_displaces_nothing_that_was_kept(tmp_path: Path) -> None:
    begin(tmp_path, options(), {}, resume=False)
    checkpoint(tmp_path, 72)
    for seed in (1, 2, 3):
        begin(tmp_path, options(seed=seed), {}, resume=False)
    assert [path.name for path in complete(tmp_path / "before")] == ["checkpoint-72"]


def test_a_plan_says_memory_and_time_and_leaves_an_earlier_run_as_it_is(
    codes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin(made(tmp_path / "run"), options(), {}, resume=False)
    checkpoint(tmp_path / "run", 72)
    before = sorted(tmp_path.rglob("*"))
    with owned(tmp_path / "run", "train"), caplog.at_level("INFO"):  # another process may be training there
        assert run(codes, tmp_path, "--plan") == 0
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "lock") == before
    assert re.search(r"memory, GB: base 0\.0[12]", caplog.text)  # in bfloat16 or, without it, float32
    assert "updates an epoch" in caplog.text
    assert re.search(r"\d+ updates of [\d.]+ s, as the first were, and \d looks at the held-out rows: \d", caplog.text)
    assert re.search(r"features of \d+ images .*: \d+ s at most", caplog.text)


def test_what_will_hardly_learn_is_told_before_it_is_tried(
    codes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(codes, tmp_path, "--plan") == 0
    assert re.search(r"\d updates in all, of up to 64 rows each, are few to learn from: more --epochs", caplog.text)
    assert "--learning-rate 0.0002 is what a 7B wants" in caplog.text
    caplog.clear()
    assert run(codes, tmp_path, "--plan", "--epochs", "15", "--rows-per-step", "10", "--learning-rate", "3e-3") == 0
    assert "few to learn from" not in caplog.text
    assert "is what a 7B wants" not in caplog.text


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_warned_of_where_the_machine_has_no_such_products(
    has: bool, codes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.training.prepare.has_bfloat16", lambda: has)
    monkeypatch.setattr("trainer.training.prepare._tell_time", lambda *_: None)
    assert run(codes, tmp_path, "--plan", "--precision", "bfloat16") == 0
    assert ("multiplies in it by software" in caplog.text) != has


def checkpoint(folder: Path, step: int, whole: bool = True) -> Path:
    path = folder / f"checkpoints/checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(b"state")
    if whole:
        (path / MARK).touch()
    return path


def test_the_last_complete_checkpoint_is_gone_on_from_and_cut_off_ones_go(tmp_path: Path) -> None:
    for step, whole in ((5, True), (10, True), (15, False)):
        checkpoint(tmp_path, step, whole)
    assert last_complete(tmp_path) == tmp_path / "checkpoints/checkpoint-10"
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["checkpoint-10", "checkpoint-5"]


def test_older_checkpoints_go_when_the_new_one_is_marked_and_the_best_stays(tmp_path: Path) -> None:
    for step in (5, 10):
        checkpoint(tmp_path, step)
    new = checkpoint(tmp_path, 15, whole=False)
    arguments = SimpleNamespace(output_dir=str(tmp_path / "checkpoints"))
    state = TrainerState(global_step=15, best_model_checkpoint=str(tmp_path / "checkpoints/checkpoint-5"))
    Checkpoints().on_save(arguments, state, TrainerControl())
    assert (new / MARK).exists()
    assert [path.name for path in complete(tmp_path)] == ["checkpoint-5", "checkpoint-15"]


def test_the_curve_is_cut_to_where_a_run_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    cut_log(file, 2)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_training_that_is_stopped_says_how_to_go_on_and_does(
    codes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        step = TreeTrainer.training_step

        def stopped(trainer: Any, *arguments: Any, **named: Any) -> Any:
            if trainer.state.global_step == 3:
                raise KeyboardInterrupt
            return step(trainer, *arguments, **named)

        patch.setattr(TreeTrainer, "training_step", stopped)
        assert run(codes, tmp_path, *QUICK) == 130
    said = capsys.readouterr().err
    assert "stopped. checkpoint-2 is complete; go on with:" in said
    assert f"--config {tmp_path / 'run/options.yaml'} --resume" in said
    # The command that was named goes on; another learning rate is refused, and a run of no name.
    assert run(codes, tmp_path, *QUICK, "--resume", "--learning-rate", "1e-3") == 2
    assert "--learning-rate was 0.0002 and is 0.001 now" in capsys.readouterr().err
    assert run(codes, tmp_path, *QUICK, "--resume", "--output", str(tmp_path / "typo")) == 2
    assert "typo holds no run" in capsys.readouterr().err
    run(codes, tmp_path, "--config", str(tmp_path / "run/options.yaml"), "--resume")
    assert (tmp_path / "run" / LEARNT / "adapter_model.safetensors").is_file()
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert [path.name for path in complete(tmp_path / "run")] == ["checkpoint-4"]


def test_a_loss_that_is_no_number_ends_the_training_with_step_and_remedy(
    codes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(codes, tmp_path, *QUICK, "--max-steps", "30", "--learning-rate", "1e30", "--warmup", "0") == 2
    said = capsys.readouterr().err
    assert "the loss is nan at step 2 of 30" in said
    assert "--learning-rate" in said
    assert not (tmp_path / "codes").exists()  # nothing is published


def test_checkpointing_and_workers_give_the_same_weights_on_a_cpu(codes: Path, tmp_path: Path) -> None:
    found = []
    for name, more in (("plain", []), ("checkpointed", ["--gradient-checkpointing"]), ("helped", ["--workers", "2"])):
        with interrupted_after(2):
            run(codes, tmp_path / name, *QUICK, *more)
        found.append((tmp_path / name / "run/checkpoints/checkpoint-2/adapter_model.safetensors").read_bytes())
    assert found[0] == found[1] == found[2]


def test_one_process_uses_one_gpu_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    arguments: Any = SimpleNamespace(n_gpu=8, _n_gpu=8, device=torch.device("cuda", 0))
    with caplog.at_level("INFO"):
        one_device(arguments)
    assert arguments._n_gpu == 1
    assert "one of 8 GPUs" in caplog.text


def test_the_loop_s_options_reach_transformers(tmp_path: Path) -> None:
    chosen = options(schedule="linear", weight_decay=0.1, clip=0.5, max_steps=7, warmup=0.1, seed=3)
    arguments = arguments_of(chosen, tmp_path)
    assert arguments.lr_scheduler_type == "linear"
    assert (arguments.weight_decay, arguments.max_grad_norm, arguments.max_steps) == (0.1, 0.5, 7)
    assert (arguments.seed, arguments.save_total_limit) == (3, None)
    assert arguments_of(options(schedule="constant"), tmp_path).lr_scheduler_type == "constant_with_warmup"
