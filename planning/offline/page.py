"""What `jepa plan offline` shows: a table for the terminal, and one self-contained page with curves and axes."""

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from jepa import report_html as html
from jepa.planning.offline.rows import LABELS

HOW = (
    "From {starts} frames of {episodes} held-out episodes, plans towards the frame that came some steps later, against "
    "the actions that led there. `error`: the mean absolute difference, over the axes of a unit. `skill`: 1 − error / "
    "error of the zero action; 0 is no better than that, 1 is perfect. `less`: how much smaller the error is than the "
    "zero action's, from the same starts. `correlation`: with the logged action, the mean over the axes: above 0 where "
    "the direction is right, whatever the size. `sum`: for the sum of a plan's actions. [ ]: 95 % bootstrap over "
    "episodes. Plans stay within what 99 % of the training actions did, on each axis."
)
ENERGY = (
    "Mean energies in the world model. If the planner's are lower than the logged actions', the search does its work "
    "and the world model is what errs; if they are higher, the search needs more samples."
)
LEGEND = "skill: 1 − error / that of the zero action; corr.: with what was logged; sum: skill of a plan's sum"
COLOURS = {"mean": "#9aa5ab", "inverse": "#c98b3c", "ours": "#2a6f97", "control": "#9b4f8f"}
HEAD = ("steps", "row", "error", "less than zero's", "skill", "correlation", "sum: error", "sum: skill")
KINDS = {"first": "first action", "sum": "sum of the actions"}


def show(result: dict[str, Any], console: Console) -> None:
    """Print a table for each unit, the energies and the notes."""
    for unit in dict.fromkeys(result["units"]):
        title = f"{unit}: errors against the logged actions, {result['starts']} starts, {result['episodes']} episodes"
        table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
        for i, head in enumerate(("steps", "row", "error", "skill", "corr.", "sum")):
            table.add_column(head, justify="left" if i < 2 else "right", no_wrap=True)
        for goal in result["goals"]:
            rows = _rows(goal, unit)
            for i, (steps, row, error, _, skill, r, _, of_sum) in enumerate(rows, 1):
                error, r, of_sum = (figure.split(" ")[0] for figure in (error, r, of_sum))  # without their intervals
                table.add_row(steps, row, error, skill, r, of_sum, end_section=i == len(rows))
        console.print(table)
    console.print(LEGEND, soft_wrap=True)
    for goal in result["goals"]:
        console.print(f"energy, goals {goal['horizon']} steps ahead: {_energies(goal)}", soft_wrap=True)
    for note in result["notes"]:
        console.print(f"[yellow]{note}", soft_wrap=True)


def write(result: dict[str, Any], folder: Path) -> Path:
    """Write FOLDER/report.html and return its path."""
    notes = "".join(html.paragraph(note, "soft") for note in result["notes"])
    sections = {"What was compared": html.paragraph(HOW.format(**result)) + notes}
    for unit in dict.fromkeys(result["units"]):
        rows = [cells for goal in result["goals"] for cells in _rows(goal, unit)]
        table = html.table(HEAD, rows, left=2, marked=LABELS["ours"], group=0)
        sections[f"All axes in {unit}"] = table + html.plot(_curves(result, unit), "Skill by the goal's distance.")
    text = "Skill and correlation of the first action on each axis, for the nearest goals."
    sections["Axes"] = html.plot(_axes(result), text) + _axis_table(result)
    energies = [[str(goal["horizon"]), _energies(goal)] for goal in result["goals"]]
    sections["Energy"] = html.paragraph(ENERGY) + html.table(("steps", "mean energy"), energies, left=2)
    settings = {k: result[k] for k in ("command", "config", "fps", "limit")}
    sections["Settings"] = html.folded("how it was run", settings)
    lead = f"{result['config']['world']} on {result['config']['shards']}"
    return html.write_page(folder / "report.html", "Planning offline", lead, sections)


def _rows(goal: dict[str, Any], unit: str) -> list[list[str]]:
    rows = []
    for row, kinds in goal["rows"].items():
        first, total = kinds["first"], kinds["sum"]
        names = ((first, "error"), (first, "less"), (first, "skill"), (first, "correlation"), (total, "error"))
        figures = [_figure(kind[name][unit], name) for kind, name in (*names, (total, "skill"))]
        rows.append([str(goal["horizon"]), LABELS[row], *figures])
    return rows


def _figure(value: tuple[float, float, float] | None, name: str) -> str:
    if value is None:
        return ""
    form = ".2f" if name in ("skill", "correlation") else ".2g"
    middle, low, high = (format(v, form).replace("-", "−") for v in value)
    return f"{middle} [{low}, {high}]"


def _energies(goal: dict[str, Any]) -> str:
    return ", ".join(f"{LABELS.get(name, name)} {value:.4f}" for name, value in goal["energy"].items())


def _shown(result: dict[str, Any]) -> list[str]:
    return [row for row in COLOURS if row in result["goals"][0]["rows"]]


def _axis_table(result: dict[str, Any]) -> str:
    """Skill and correlation of the first action on each axis, for the nearest goals."""
    rows = result["goals"][0]["rows"]
    columns = [(row, name) for row in _shown(result)[1:] for name in ("skill", "correlation")]
    lines = [
        [f"{i}, {unit}", *(_figure(rows[row]["first"][name][str(i)], name) for row, name in columns)]
        for i, unit in enumerate(result["units"])
    ]
    return html.table(("axis", *(f"{name}, {LABELS[row]}" for row, name in columns)), lines)


def _curves(result: dict[str, Any], unit: str) -> Any:
    """Skill of the first action and of the sum, by the goal's distance, a line a row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, (kind, title) in zip(figure.subplots(1, 2, sharey=True), KINDS.items(), strict=True):
        axes.axhline(0, color="#1d2529", linewidth=0.8)
        for i, row in enumerate(_shown(result)):
            points = [(g["horizon"], g["rows"][row][kind]["skill"][unit]) for g in result["goals"]]
            known = [(at + 0.04 * i, *skill) for at, skill in points if skill]
            for at, _, low, high in known:
                axes.plot([at, at], [low, high], color=COLOURS[row], linewidth=1)
            at, middle = [k[0] for k in known], [k[1] for k in known]
            axes.plot(at, middle, "o-", color=COLOURS[row], label=LABELS[row], markersize=4)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("steps to the goal", fontsize=8)
        axes.set_xticks([g["horizon"] for g in result["goals"]])
        axes.tick_params(labelsize=7)
    figure.axes[0].set_ylabel(f"skill, {unit}", fontsize=8)
    figure.axes[0].legend(fontsize=7)
    return figure


def _axes(result: dict[str, Any]) -> Any:
    """Skill and correlation of each axis, a mark a row."""
    from matplotlib.figure import Figure

    count = len(result["units"])
    figure = Figure(figsize=(max(6, 1.5 + 0.35 * count), 4.6), layout="constrained")
    for axes, what in zip(figure.subplots(2, 1, sharex=True), ("skill", "correlation"), strict=True):
        axes.axhline(0, color="#1d2529", linewidth=0.8)
        for i, row in enumerate(_shown(result)[1:]):
            found = result["goals"][0]["rows"][row]["first"][what]
            for axis in range(count):
                if value := found[str(axis)]:
                    at = axis + 0.2 * (i - 1)
                    axes.plot([at, at], value[1:], color=COLOURS[row], linewidth=1)
                    axes.plot(at, value[0], "o", color=COLOURS[row], markersize=3)
        axes.set_ylabel(what, fontsize=8)
        axes.set_ylim(-1, 1)
        axes.tick_params(labelsize=7)
    figure.axes[1].set_xticks(range(count))
    figure.axes[1].set_xlabel("axis", fontsize=8)
    return figure
