"""What is wrong with records, grouped by kind: of each kind the first are shown and the others counted."""

from collections import Counter
from dataclasses import dataclass

from trainer.errors import DataError

# Faults of one kind that are shown with their places; the others are counted.
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one record. `says` is the same for every record it happens to; {} in it stands for `of`."""

    says: str
    of: str = ""

    def __str__(self) -> str:
        return self.says.replace("{}", self.of, 1)

    @property
    def kind(self) -> str:
        """The sentence without what differs from record to record."""
        return self.says.replace(" {}", "").replace("{}: ", "").rstrip(":")


class Faults:
    """The faults of a set: of each kind the first with their places, and how many more there were."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._counts: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, place: str, fault: Fault) -> None:
        """Note a record with a fault; `place` is "file:line"."""
        self._counts[fault.kind] += 1
        if self._counts[fault.kind] <= SHOWN:
            self._shown.append(f"{place}: {fault}")

    def error(self, every: bool = False) -> DataError:
        """All faults as one error, whose message has the first of them, or with `every` each that is kept."""
        more = [f"… and {count - SHOWN} more: {kind}" for kind, count in self._counts.items() if count > SHOWN]
        faults = [*self._shown, *more]
        return DataError(faults, len(faults)) if every else DataError(faults)


@dataclass(slots=True)
class Notes:
    """What was noticed of one record: its faults, and what was understood in another way than it was written."""

    faults: list[Fault]
    mended: list[str]

    @classmethod
    def none(cls) -> "Notes":
        """Notes with nothing in them yet."""
        return cls([], [])

    def fault(self, says: str, of: str = "") -> None:
        """The record cannot be a row, and why."""
        self.faults.append(Fault(says, of))

    def mend(self, rule: str) -> None:
        """The rule by which something was understood; a report counts it, --strict makes it a fault."""
        self.mended.append(rule)
