"""Options that ask for what PEFT can train and the engine cannot serve; service/adapters/features.py has the table."""

from collections.abc import Sequence

from service.adapters.features import UNSERVED
from trainer.errors import OptionError


def refuse_options(arguments: Sequence[str]) -> None:
    """Refuse a command line with an option named after such a feature, with hyphens or underscores.

    Raises:
        OptionError: naming the option and the reason.
    """
    for argument in arguments:
        option = argument.partition("=")[0]
        name = option.removeprefix("--").replace("-", "_")
        if option.startswith("--") and name in UNSERVED:
            raise OptionError(f"{option}: {UNSERVED[name]}; the trainer makes plain LoRA")
