"""The table of what training and scoring take has the design before the forest beside today's, and that takes more."""

import json

import pytest

from loadtest.trainer import memory


def test_every_size_has_its_lines_and_today_s_take_less(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "_SIZES", {"small": (256, 512, 4, 4)})
    monkeypatch.setattr(memory, "_CARDS", {("small", form): 24 for form in ("nf4", "bfloat16")})
    assert memory.main() == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    whole = {
        (line["when"], line["base"], line.get("checkpointing")): line["total"]
        for line in lines
        if not line.get("scoring")
    }
    assert len(lines) == 9
    for checkpointing in (True, False):
        least, less, before = (
            whole[key, form, checkpointing]
            for key, form in (("now", "nf4"), ("now", "bfloat16"), ("before", "float32"))
        )
        assert least <= less < before
    scored = {(line["when"], line["base"]): line for line in lines if line.get("scoring")}
    assert scored["now", "bfloat16"]["total"] < scored["before", "float32"]["total"]
    assert all(line["rows_at_once"] > 0 for line in scored.values())
