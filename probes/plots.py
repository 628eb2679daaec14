"""Pictures of a probe run: for each task bars of the rows with intervals and chance, and what it mixed up."""

from pathlib import Path
from typing import Any

import numpy as np

MOST_CLASSES, MOST_WRITTEN = 60, 12  # in a confusion matrix: drawn at all, and with numbers
COLOURS = {"pretrained": "#2a6f97", "random_init": "#c98b3c", "pixels": "#9aa5ab", "image": "#4f8f5b"}
LABELS = {"pretrained": "pre-trained", "random_init": "random init", "pixels": "pixels", "image": "image encoder"}


def draw(result: dict[str, Any], out: Path) -> dict[str, list[Path]]:
    """Draw `out/probe_<task>.png`, and of classes `out/confusion_<task>.png`, from the dict of `probe.json`; by task.

    Bars show the mean, dots every seed, whiskers the 95 % interval over test episodes.
    """
    found = {}
    for task in dict.fromkeys(r["task"] for r in result["rows"]):
        rows = [r for r in result["rows"] if r["task"] == task]
        found[task] = [_bars(rows, out / f"probe_{task}.png")]
        sure = [r for r in rows if r["row"] == "pretrained" and r["classes"]]
        if sure and len(sure[0]["classes"]["table"]) <= MOST_CLASSES:
            found[task].append(_confusions(sure, out / f"confusion_{task}.png"))
    return found


def _bars(rows: list[dict[str, Any]], path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    probes = list(dict.fromkeys((r["probe"], r["view"]) for r in rows if r["row"] in COLOURS))
    figure = Figure(figsize=(1.8 + 1.5 * len(probes), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    makers = [maker for maker in COLOURS if any(r["row"] == maker for r in rows)]
    wide = 0.81 / len(makers)
    for i, maker in enumerate(makers):
        for x, probe in enumerate(probes):
            row = next(r for r in rows if r["row"] == maker and (r["probe"], r["view"]) == probe)
            _bar(
                axes,
                x + wide * (i - (len(makers) - 1) / 2),
                0.93 * wide,
                row,
                COLOURS[maker],
                LABELS[maker] if x == 0 else None,
            )
    chance = next(r["mean"] for r in rows if r["row"] == "chance")
    if chance is not None:
        axes.axhline(chance, color="black", linewidth=1, linestyle=":", label="chance")
    axes.set_xticks(range(len(probes)), [f"{kind}\n({view})" for kind, view in probes])
    axes.set_ylabel({"r2": "R²"}.get(rows[0]["metric"], rows[0]["metric"].replace("_", " ")))
    axes.set_title(rows[0]["title"])
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    return path


def _confusions(rows: list[dict[str, Any]], path: Path) -> Path:
    """Shares of each true class (a line) by predicted class, one panel a probe."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = max(len(r["classes"]["table"]) for r in rows)
    side = 1.6 + 0.35 * count
    figure = Figure(figsize=(0.8 + side * len(rows), 1.0 + side), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        matrix = np.array(row["classes"]["confusion"], float)
        shares = matrix / matrix.sum(1, keepdims=True).clip(min=1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        names = [c["class"] for c in row["classes"]["table"]]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        for (y, x), share in np.ndenumerate(shares):
            if len(names) <= MOST_WRITTEN:
                axes.text(
                    x,
                    y,
                    f"{share:.2f}",
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="black" if share < 0.5 else "white",
                )
        axes.set_title(f"{row['probe']} ({row['view']})", fontsize=9)
    figure.supxlabel("predicted", fontsize=8)
    figure.supylabel("true", fontsize=8)
    figure.suptitle(f"{rows[0]['title']}, pre-trained: share of each class", fontsize=9)
    figure.savefig(path, dpi=130)
    return path


def _bar(axes: Any, x: float, width: float, row: dict[str, Any], colour: str, label: str | None) -> None:
    values = [v for v in row["values"] if v is not None]
    if not values:
        return
    low, high = row["bootstrap95"]
    interval = None if low is None else [[max(0.0, row["mean"] - low)], [max(0.0, high - row["mean"])]]
    axes.bar(x, row["mean"], width, color=colour, label=label, yerr=interval, capsize=3)
    axes.scatter([x] * len(values), values, s=8, color="black", zorder=3)
