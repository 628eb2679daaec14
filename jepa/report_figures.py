"""The plots of a report: panels of curves, and energy landscapes; plain numbers in, matplotlib figures out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OURS, CONTROL, THIRD, GREY = "#2a6f97", "#c98b3c", "#4f8f5b", "#9aa5ab"
CYCLE = (OURS, CONTROL, THIRD, "#8a5a9e", GREY, "#b5494e")


@dataclass(frozen=True)
class Line:
    """One curve; `band` holds the lower and the upper edge of a shaded area around it."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = OURS
    style: str = "-"
    band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class Panel:
    """Curves that share axes; `levels` are dashed horizontal lines, `marks` dotted vertical ones, by label."""

    title: str
    xlabel: str
    lines: Sequence[Line]
    ylabel: str = ""
    levels: dict[str, float] = field(default_factory=dict)
    marks: dict[str, float] = field(default_factory=dict)
    zero: bool = False  # the y axis starts at 0


def curves(panels: Sequence[Panel], height: float = 3.0) -> Any:
    """Panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2 if len(panels) > 1 else 5.2, height), layout="constrained")
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for i, line in enumerate(panel.lines):
            over = 10 - i  # the first on top: it is ours
            dot = "o" if len(line.x) == 1 else None  # a line through one point would not be seen
            (drawn,) = axes.plot(line.x, line.y, line.style, color=line.colour, label=line.label, marker=dot)
            drawn.set(linewidth=1.6, zorder=over)
            if line.band:
                axes.fill_between(line.x, *line.band, color=line.colour, alpha=0.15, linewidth=0)
        for style, (label, y) in zip(("--", ":", "-."), panel.levels.items(), strict=False):
            axes.axhline(y, color="black", linestyle=style, linewidth=1, label=label)
        for label, x in panel.marks.items():
            axes.axvline(x, color=GREY, linestyle=":", linewidth=1.2, label=label)
        if panel.zero:
            axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel(panel.xlabel, fontsize=9)
        axes.set_ylabel(panel.ylabel, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if any([*(line.label for line in panel.lines), *panel.levels, *panel.marks]):
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 2}
            axes.legend(fontsize=7.5, frameon=False, **below)
    return figure


def smooth(steps: Sequence[float], values: Sequence[float], window: int) -> tuple[Any, Any]:
    """Running mean over `window` values, at the step of the last of them."""
    window = min(window, len(values))
    kernel = np.full(window, 1 / window)
    return np.asarray(steps)[window - 1 :], np.convolve(values, kernel, "valid")


def landscapes(columns: Sequence[str], scenes: Sequence[np.ndarray], rows: Mapping[str, Sequence[Any]]) -> Any:
    """One column a transition: what was seen (h, w, 3), and below it the energies of every row's world over it.

    `rows` holds `jepa.planning.landscape.Landscape`s by label, one a column.
    """
    from matplotlib.figure import Figure

    count = len(columns)
    ratios = [0.5] + [1.0] * len(rows)
    figure = Figure(figsize=(0.6 + 2.7 * count, 2.9 * sum(ratios)), layout="constrained")
    grid = figure.subplots(1 + len(rows), count, squeeze=False, height_ratios=ratios)
    for axes, title, scene in zip(grid[0], columns, scenes, strict=True):
        axes.imshow(scene, interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    for line, (label, found) in zip(grid[1:], rows.items(), strict=True):
        for axes, land in zip(line, found, strict=True):
            edge = 100 * (1.5 * land.axis[-1] - 0.5 * land.axis[-2])  # cells are centred on the grid's points
            axes.imshow(land.energy.T, origin="lower", extent=(-edge, edge, -edge, edge), cmap="viridis")
            axes.set_title(f"{land.energy.min():.4f} … {land.energy.max():.4f}", fontsize=8)
            taken, lowest = (100 * np.array(point) for point in (land.action, land.lowest))
            axes.plot(*lowest, "x", color="white", markersize=9, markeredgewidth=2.2)
            axes.plot(*taken, "*", color="#ff5a4f", markersize=12, markeredgecolor="white", markeredgewidth=0.8)
            axes.set_xlabel("Δx, cm", fontsize=8)
            axes.tick_params(labelsize=7)
        line[0].set_ylabel(f"{label}\nΔz, cm", fontsize=9)
    return figure
