"""How fast a training goes, what it spends on padding, in what memory, and how long it will take: for log and bar."""

import resource
import time
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import ProgressCallback


class Meter:
    """Counts rows, tokens and padding of updates, for the figures a second in the log."""

    def __init__(self) -> None:
        self._rows = self._tokens = self._padded = 0
        self._since = self._start = time.perf_counter()
        self._first_step: int | None = None

    def count(self, inputs: dict[str, Any]) -> None:
        """One more share of an update, as `Shares` gives it."""
        self._rows += inputs["rows"]
        self._tokens += inputs["tokens"]
        self._padded += sum(forest["trees"].numel() for forest in inputs["forests"])

    def read(self, state: Any) -> dict[str, float]:
        """This process's rates since the last reading; `padding` is a share, `seconds_left` a guess."""
        now = time.perf_counter()
        rows, tokens, padded = self._rows, self._tokens, self._padded
        seconds = max(now - self._since, 1e-9)
        self._rows = self._tokens = self._padded = 0
        self._since = now
        if self._first_step is None:  # of the first step's time most is the start's
            self._first_step, self._start = state.global_step, now
        steps = state.global_step - self._first_step
        pace = (now - self._start) / steps if steps else seconds
        return {
            "rows_per_second": round(rows / seconds, 2),
            "tokens_per_second": round(tokens / seconds, 1),
            "padding": round(1 - tokens / max(padded, 1), 4),
            "peak_gb": round(peak_bytes() / 1e9, 2),
            "seconds_left": round(pace * (state.max_steps - state.global_step), 1),
        }


class Bar(ProgressCallback):  # type: ignore[misc]  # transformers is untyped
    """transformers' progress bar with what was last logged on it, instead of a line for each."""

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Show losses and speed at the progress bar (transformers.TrainerCallback)."""
        if self.training_bar is not None and logs:
            shown = {
                "loss": "{:.4f}",
                "eval_loss": "{:.4f}",
                "rows_per_second": "{:.1f}",
                "tokens_per_second": "{:.0f}",
                "preference": "{:.1%}",
                "padding": "{:.1%}",
                "peak_gb": "{:.1f}",
            }
            self.training_bar.set_postfix_str(
                ", ".join(f"{name} {form.format(logs[name])}" for name, form in shown.items() if name in logs)
            )


def peak_bytes() -> int:
    """The most memory that this process has held: on its GPU, or without one in all."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """What this process holds of main memory now; Linux alone tells."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else 0
