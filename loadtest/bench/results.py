"""Figures of each side in each round -> medians, ratios and goals."""

import math
import os
import statistics
from collections.abc import Sequence
from typing import Any

from loadtest.bench.cases import Goal
from loadtest.client import Window, percentile

Figures = dict[str, float]
"""By name: rate (units a second), p50_ms, p95_ms, p99_ms of a unit, and cpu_ms, the server's CPU time for one unit."""


def figures(window: Window, cpu_s: float) -> Figures:
    """The figures of one side in one round; `cpu_s` is its server's CPU seconds in the round."""
    took = sorted(1000 * each for each in window.took) or [float("nan")]
    return {
        "rate": round(len(window.took) / window.seconds, 2),
        **{f"p{percent}_ms": round(percentile(took, percent), 1) for percent in (50, 95, 99)},
        "cpu_ms": round(1000 * cpu_s / max(1, len(window.took)), 2),
    }


def line(
    name: str, by_round: Sequence[dict[str, Figures]], goals: Sequence[dict[str, Any]], **facts: object
) -> dict[str, Any]:
    """One JSON line: `facts`, each side's medians over the rounds, and goals as `reached` and `bounded` return them."""
    sides = {
        side: {figure: round(statistics.median(each[side][figure] for each in by_round), 2) for figure in first}
        for side, first in by_round[0].items()
    }
    load = round(os.getloadavg()[0], 1)
    return {"bench": "side by side", "case": name, "load": load, **facts, "sides": sides, "goals": list(goals)}


def reached(goal: Goal, rounds: Sequence[dict[str, Figures]]) -> dict[str, Any]:
    """A goal with its ratio's median, least and most over rounds, and whether the median keeps the bound.

    A round in which `goal.over` answered nothing is left out. One in which `goal.of` answered nothing has a rate of 0,
    and of every other figure an infinite ratio. Where no round is left the ratio is the same.
    """
    nothing = 0.0 if goal.figure == "rate" else math.inf
    answered = [each for each in rounds if each[goal.over]["rate"] > 0]
    ratios = [
        each[goal.of][goal.figure] / max(1e-9, each[goal.over][goal.figure]) if each[goal.of]["rate"] > 0 else nothing
        for each in answered
    ] or [nothing]
    return bounded(goal.of, goal.over, goal.figure, ratios, goal.least, goal.most)


def bounded(
    of: str, over: str, figure: str, values: Sequence[float], least: float | None = None, most: float | None = None
) -> dict[str, Any]:
    """A goal as `reached` returns it, for values (one for each round) that need no division."""
    middle = statistics.median(values)
    bound = {"at_least": least} if least is not None else {"at_most": most}
    kept = (least is None or middle >= least) and (most is None or middle <= most)
    return {
        "of": of, "over": over, "figure": figure, **bound, "median": round(middle, 3),
        "spread": [round(min(values), 3), round(max(values), 3)], "reached": kept,
    }  # fmt: skip


def table(lines: Sequence[dict[str, Any]]) -> str:
    """All goals as a table in Markdown."""
    rows = ["| case | figure | of | over | median | spread | goal | |", "|---|---|---|---|---:|---|---:|---|"]
    for line in lines:
        for goal in line["goals"]:
            bound = goal.get("at_least") or goal.get("at_most")
            sign = "≥" if goal.get("at_least") else "≤"
            low, high = goal["spread"]
            rows.append(
                f"| {line['case']} | {goal['figure']} | {goal['of']} | {goal['over']} | {goal['median']:.2f} "
                f"| {low:.2f} to {high:.2f} | {f'{sign} {bound:.2f}' if bound else ''} "
                f"| {('reached' if goal['reached'] else 'missed') if bound else ''} |"
            )
    return "\n".join(rows) + "\n"


def told(goal: dict[str, Any]) -> str:
    """A goal in words and numbers."""
    bound = next((f"{how.replace('_', ' ')} {goal[how]:.2f}" for how in ("at_least", "at_most") if goal.get(how)), "")
    verdict = ("reached" if goal["reached"] else "MISSED") if bound else "told"
    low, high = goal["spread"]
    what = f"{goal['figure']} of {goal['of']} over {goal['over']}"
    return f"{what:56} {goal['median']:7.2f} ({low:.2f} to {high:.2f})  {bound:14} {verdict}"
