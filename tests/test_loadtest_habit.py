"""`make bench-habit` with fewer held-out pictures: pairs correct what SFT on its own rows keeps."""

from pathlib import Path

import pytest

from loadtest.trainer.habit import Bench, found, trained, write_set


@pytest.mark.slow
def test_pairs_correct_a_habit_that_sft_keeps(tmp_path: Path) -> None:
    options = Bench(work=tmp_path, held_out=150)
    write_set(options)
    right = found(options, trained(options))
    assert right["habit"]["habit"].high < 0.2
    assert right["more-of-it"]["habit"].high < 0.2
    assert right["dpo"]["habit"].low > 0.2
    assert right["dpo"]["others"].mean > right["habit"]["others"].mean - 0.1
