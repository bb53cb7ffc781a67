"""What is said when a version was published: the command that serves it."""

from pathlib import Path

from service.embedded import embedded
from trainer.adapter.version import how_to_serve


def test_the_command_names_the_store_and_a_base_other_than_the_embedded_one() -> None:
    small = how_to_serve(Path("my adapters"), embedded("tiny-llava"))
    assert small.endswith("python -m service --adapters 'my adapters'")
    assert how_to_serve(Path("adapters"), str(Path(embedded("tiny-llava")).resolve())) == small.replace(
        "'my adapters'", "adapters"
    )
    assert how_to_serve(Path("adapters"), "llava-hf/llava-1.5-7b-hf").endswith(
        "--adapters adapters --model llava-hf/llava-1.5-7b-hf"
    )
