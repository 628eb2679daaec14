"""Bar charts of a probe run: one picture a task, bars of the rows side by side, their intervals, and chance."""

from pathlib import Path
from typing import Any

COLOURS = {"pretrained": "#2a6f97", "random_init": "#c98b3c", "pixels": "#9aa5ab", "image": "#4f8f5b"}
LABELS = {"pretrained": "pre-trained", "random_init": "random init", "pixels": "pixels", "image": "image ViT"}


def draw(result: dict[str, Any], out: Path) -> list[Path]:
    """Draw `out/probe_<task>.png` from the dict of `probe.json`; bars show the mean, dots every seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paths = []
    for task in dict.fromkeys(r["task"] for r in result["rows"]):
        rows = [r for r in result["rows"] if r["task"] == task]
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
        paths.append(out / f"probe_{task}.png")
        figure.savefig(paths[-1], dpi=130)
    return paths


def _bar(axes: Any, x: float, width: float, row: dict[str, Any], colour: str, label: str | None) -> None:
    values = [v for v in row["values"] if v is not None]
    if not values:
        return
    low, high = row["t95"]
    interval = None if low is None else [[row["mean"] - low], [high - row["mean"]]]
    axes.bar(x, row["mean"], width, color=colour, label=label, yerr=interval, capsize=3)
    axes.scatter([x] * len(values), values, s=8, color="black", zorder=3)
