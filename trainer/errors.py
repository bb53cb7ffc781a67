"""What can go wrong with a trainer's input; every message names the file, field or option and the way out.

TrainerError
├── DataError        the rows: one line per fault, file and line first
├── OptionError      an option's value, or two that exclude each other
└── NoGain           the adapter answers as its base does, or no better: nothing to publish
"""


class TrainerError(Exception):
    """The root: the command line prints its message and ends with status 2."""


class DataError(TrainerError):
    """Rows that cannot be trained on; `faults` has all, the message the first `shown`."""

    def __init__(self, faults: list[str], shown: int = 20) -> None:
        more = [f"… and {len(faults) - shown} more: `data check` shows all"] if len(faults) > shown else []
        super().__init__("\n".join(faults[:shown] + more))
        self.faults = faults


class OptionError(TrainerError):
    """An option that cannot be followed."""


class NoGain(TrainerError):
    """Training ended with an adapter that should not be published."""
