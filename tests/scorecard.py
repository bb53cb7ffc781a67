"""Cases that state their bounds before they run; what was measured is printed and kept as JSON, whatever came of it."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bound:
    """The least and the most that a figure may be."""

    least: float = -math.inf
    most: float = math.inf

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.most:g}"
        return f"at most {self.most:g}" if self.least == -math.inf else f"at least {self.least:g}"


def at_least(figure: float) -> Bound:
    """No less than this."""
    return Bound(least=figure)


def at_most(figure: float) -> Bound:
    """No more than this."""
    return Bound(most=figure)


def exactly(figure: float) -> Bound:
    """This and nothing else."""
    return Bound(figure, figure)


class Scorecard:
    """What each case was held to and what it came to; `strays` counts processes that should not be there any more."""

    def __init__(self, file: Path, strays: Callable[[], int]) -> None:
        self._file, self._strays = file, strays
        self._lines: list[dict[str, object]] = []

    @contextmanager
    def case(self, name: str, **bounds: Bound) -> Iterator[dict[str, float]]:
        """Say the bounds, then let the block fill in the figures by the bounds' names, and others that tell more.

        Raises:
            AssertionError: a figure is out of its bounds, or was not measured.
        """
        bounds["processes_left"] = exactly(0)
        print(f"\n{name}: {', '.join(f'{figure} {bound}' for figure, bound in bounds.items())}", flush=True)
        measured: dict[str, float] = {}
        line: dict[str, object] = {"case": name, "held": False, "measured": measured}
        line["bounds"] = {figure: str(bound) for figure, bound in bounds.items()}
        self._lines.append(line)
        began = time.monotonic()
        try:
            yield measured
            measured["processes_left"] = self._strays()
            broken = [
                figure
                for figure, bound in bounds.items()
                if not bound.least <= measured.get(figure, math.nan) <= bound.most
            ]
            line["held"] = not broken
            assert not broken, f"{name}: out of bounds: {', '.join(broken)} of {measured}"
        finally:
            line["seconds"] = round(time.monotonic() - began, 1)
            told = ", ".join(f"{figure} {value:.4g}" for figure, value in measured.items())
            print(f"{'held' if line['held'] else 'BROKEN'} {name}: {told}", flush=True)
            self._write()

    def table(self) -> str:
        """All cases, a line each."""
        return "\n".join(
            f"{'held  ' if line['held'] else 'BROKEN'} {line['seconds']:>6} s  {line['case']}: {line['measured']}"
            for line in self._lines
        )

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self._lines, indent=1))
