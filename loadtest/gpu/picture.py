"""WORK/gpu.png: a chart of the results, drawn from the JSON lines."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadtest.gpu.__main__ import Recipe


def draw(recipe: "Recipe") -> dict[str, Any]:
    """Two panels: tokens a second of the service, rows a second of the trainer."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    from loadtest.gpu.__main__ import QUESTIONS, latest

    found = latest(recipe)
    serving, trained = found.get("serve-int4", {}), [found.get(f"train-{count}", {}) for count in QUESTIONS]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    kinds = ("alone", "base", "adapters")
    bars = left.bar(kinds, [serving.get(f"tokens_per_second_{kind}", 0) for kind in kinds], color="#2a6f97")
    left.bar_label(bars, fmt="%.0f")
    left.set_title("answer tokens per second, INT4", fontsize=9)
    for offset, prefix, name, colour in ((-0.2, "", "Manylens", "#2a6f97"), (0.2, "trl_", "TRL", "#adb5bd")):
        heights = [each.get(f"{prefix}rows_per_second", 0) for each in trained]
        bars = right.bar([place + offset for place in range(len(QUESTIONS))], heights, 0.36, label=name, color=colour)
        right.bar_label(bars, fmt="%.1f")
    right.set_xticks(range(len(QUESTIONS)), [f"{count} a picture" for count in QUESTIONS])
    right.set_title("training rows per second", fontsize=9)
    right.legend(frameon=False)
    device = found.get("machine", {}).get("device", "unknown device")
    figure.suptitle(f"LLaVA-1.5 {recipe.size}, random weights, {device}", fontsize=10)
    file = recipe.work / "gpu.png"
    figure.savefig(file, dpi=150)
    return {"file": str(file)}
