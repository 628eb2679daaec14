"""What `jepa plan check` shows: a table for the terminal, and one self-contained page with scatter and landscapes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from jepa import report_html as html
from jepa.planning.check.verdict import AXES, RIGHT, WRONG
from jepa.planning.landscape import Landscape

HEAD = ("axis", "verdict", "slope", "95 %", "if both are noisy", "R²", "falls toward the goal", "95 %")
HOW = (
    "For {transitions} transitions of {episodes} episodes, the single action of least energy (mean L1 to the next "
    "frame in the world's features) against the logged action, read through embodiment {name}. `slope`: by how much "
    "the one changes with the other, all axes together: 1 is right, below 0 flipped. `if both are noisy`: from the "
    "slope to its reverse regression; a scale is called wrong only if all of this lies beyond a factor of 1.5. "
    "`falls toward the goal`: how often, from standing still, the energy falls in the direction of the logged action, "
    "for the larger half of actions. Where that tells nothing of an axis, the recordings are also read with axes "
    "turned and exchanged, and open for closed: read rightly, logged actions lead to the frames that followed. "
    "Intervals are bootstraps over episodes."
)
SHIFTED = (
    "How far the lowest move in x, y, z goes (median, cm) if pictures are shifted by some pixels: all of them, as by a "
    "camera that stands elsewhere than in training, or the goal's alone, as by a camera that was nudged since."
)
LANDSCAPES = (
    "Energy over single moves, averaged over the third axis; star: the logged action, cross: the lowest energy."
)
ALARMS = ("rate", "camera_pose")  # notes that ask for something to be changed


def show(result: dict[str, Any], console: Console) -> None:
    """Print the axes, the camera's part and the sentence that sums up."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for head in ("axis", "verdict", "slope", "95 %", "R²", "toward", ""):
        table.add_column(head, justify="right" if head in ("slope", "R²", "toward") else "left", no_wrap=bool(head))
    for axis in result["axes"]:
        colour = {RIGHT: "green", **dict.fromkeys(WRONG, "red")}.get(axis["verdict"], "yellow")
        name, verdict, slope, between, _, fit, toward, _ = _cells(axis)
        table.add_row(name, f"[{colour}]{verdict}", slope, between, fit, toward, axis["words"])
    console.print(table)
    for row in _shift_rows(result):
        console.print(
            "camera moved by {} pixels: the lowest action goes {} cm, {} cm if only the goal's picture is".format(*row)
        )
    for note in result["notes"]:
        console.print(f"[yellow]{note}" if note.startswith(ALARMS) else note, soft_wrap=True)
    console.print(f"[{'green' if result['ok'] else 'red'}]{result['summary']}", soft_wrap=True)


def write(
    result: dict[str, Any],
    lowest: np.ndarray,
    logged: np.ndarray,
    frames: np.ndarray,
    pictures: Mapping[str, Sequence[Landscape]],
    folder: Path,
) -> Path:
    """Write FOLDER/report.html and return its path.

    Args:
        lowest, logged: (n, 7) actions. frames: (m, 2, 3, h, w) uint8, of the transitions whose landscapes are given.
    """
    how = HOW.format(**{k: result[k] for k in ("transitions", "episodes")}, name=result["embodiment"]["name"])
    table = html.table((*HEAD, ""), [[*_cells(a), a["words"]] for a in result["axes"]], left=2)
    moved = html.table(("pixels", "both pictures", "goal alone"), _shift_rows(result))
    sections = {
        "Summary": html.paragraph(result["summary"])
        + "".join(html.paragraph(note, "soft") for note in result["notes"]),
        "Axes": html.paragraph(how)
        + table
        + html.plot(_scatter(result, lowest, logged), "Each point is a transition."),
        "Camera": html.paragraph(SHIFTED) + moved,
        "Energy landscape": html.plot(_landscapes(frames, pictures), LANDSCAPES),
    }
    settings = {k: v for k, v in result.items() if k not in ("axes", "summary")}
    sections["Settings"] = html.folded("what was checked", settings)
    lead = f"{result['world']} on {result['shards']}"
    return html.write_page(folder / "report.html", "Check of an embodiment", lead, sections)


def _cells(axis: dict[str, Any]) -> list[str]:
    def pair(key: str) -> str:
        return "" if axis[key] is None else "{} … {}".format(*map(_number, axis[key]))

    numbers = [_number(axis["slope"]), pair("slope95"), pair("scale"), _number(axis["fit"])]
    return [axis["axis"], axis["verdict"], *numbers, _number(axis["toward"]), pair("toward95")]


def _shift_rows(result: dict[str, Any]) -> list[list[str]]:
    rows = result["camera_shift"]
    return [[f"{r['pixels']} of {r['of']}", f"{100 * r['both']:.1f}", f"{100 * r['goal']:.1f}"] for r in rows]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}".replace("-", "−")


def _scatter(result: dict[str, Any], lowest: np.ndarray, logged: np.ndarray) -> Any:
    """The lowest action over the logged one, a panel an axis, with the line of a right axis."""
    from matplotlib.figure import Figure

    told = [i for i, axis in enumerate(result["axes"]) if axis["slope"] is not None] or [0]
    figure = Figure(figsize=(2.6 * len(told), 2.8), layout="constrained")
    for axes, i in zip(figure.subplots(1, len(told), squeeze=False)[0], told, strict=True):
        x, y = logged[:, i], lowest[:, i]
        edge = np.array([x.min(), x.max()])
        axes.plot(edge, edge, color="#9aa5ab", linewidth=1)
        axes.scatter(x, y, s=8, color="#2a6f97", alpha=0.6)
        axes.set_title(f"{AXES[i]}: {result['axes'][i]['verdict']}", fontsize=9)
        unit = "m" if i < 3 else "rad" if i < 6 else "closedness"
        axes.set_xlabel(f"logged, {unit}", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.axes[0].set_ylabel("lowest energy at", fontsize=8)
    return figure


def _landscapes(frames: np.ndarray, pictures: Mapping[str, Sequence[Landscape]]) -> Any:
    """A column a transition: both pictures side by side, and below them the energies over each plane."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 + 2.7 * len(frames), 1.5 + 2.7 * len(pictures)), layout="constrained")
    ratios = [0.5, *[1.0] * len(pictures)]
    grid = figure.subplots(1 + len(pictures), len(frames), squeeze=False, height_ratios=ratios)
    for axes, pair in zip(grid[0], frames, strict=True):
        axes.imshow(html.side_by_side(pair.transpose(0, 2, 3, 1)), interpolation="nearest")
        axes.axis("off")
    for line, found in zip(grid[1:], pictures.values(), strict=True):
        for axes, land in zip(line, found, strict=True):
            edge = 100 * (1.5 * land.axis[-1] - 0.5 * land.axis[-2])  # cells are centred on the grid's points
            axes.imshow(land.energy.T, origin="lower", extent=(-edge, edge, -edge, edge), cmap="viridis")
            taken, lowest = 100 * np.array(land.action), 100 * np.array(land.lowest)
            axes.plot(*lowest, "x", color="white", markersize=9, markeredgewidth=2.2)
            if (np.abs(taken) <= edge).all():
                axes.plot(*taken, "*", color="#ff5a4f", markersize=12, markeredgecolor="white", markeredgewidth=0.8)
            across, up = ("xyz"[axis] for axis in land.axes)
            axes.set_xlabel(f"Δ{across}, cm", fontsize=8)
            axes.set_ylabel(f"Δ{up}, cm", fontsize=8)
            axes.tick_params(labelsize=7)
    return figure
