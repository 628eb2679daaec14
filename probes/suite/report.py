"""The scorecard of the suite: for the terminal, and with curves over training for the page."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jepa import report_html as page
from jepa.report_figures import CYCLE, Line, Panel, curves

ROWS = {"chance": "chance", "pixels": "pixels", "image": "image", "random_init": "random init"}
"""Rows that do not depend on the checkpoint, by their name in `probe.json`."""

MEASURES = {
    "rankme": "RankMe",
    "alpha": "α-ReQ (decay of the spectrum)",
    "lidar": "LiDAR",
    "over_time": "std over time",
    "over_positions": "std over positions",
    "over_clips": "std over clips",
}
NOTE = "▲ ▼: beyond random init by its 95 % interval over test episodes. Every row has the same clips and budget."
PANELS = 3  # side by side

Result = dict[str, Any]


def plain(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: an undefined number is null."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def scorecard(result: Result) -> tuple[list[str], list[list[str]]]:
    """Head and rows of text: task, probe, the rows of every table, then the checkpoints."""
    tables: dict[str, Result] = result["tables"]
    first = next(iter(tables.values()))
    known = {(r["task"], r["probe"], r["view"], r["row"]): r for r in first["rows"]}
    present = [row for row in ROWS if any(r["row"] == row for r in first["rows"])]
    lines = []
    for c in first["comparisons"]:
        asked = (c["task"], c["probe"], c["view"])
        chance = known.get((c["task"], "chance", "", "chance"), {})
        cells = [chance if row == "chance" else known.get((*asked, row), {}) for row in present]
        own = [_told(table, asked) for table in tables.values()]
        title = f"{known[*asked, 'pretrained']['title']}, {_metric(c['metric'])}"
        lines.append([title, f"{c['probe']} {c['view']}", *(_number(cell.get("mean")) for cell in cells), *own])
    return ["task", "probe", *(ROWS[row] for row in present), *tables], lines


def measures(result: Result) -> tuple[list[str], list[list[str]]]:
    """Head and rows of text: each measure of random init and of the checkpoints; ranks with the most they can be."""
    found: dict[str, Result] = result["measures"]
    most = {"rankme": "rank", "lidar": "lidar_rank"}  # of each encoder's own width

    def cell(values: Result, key: str) -> str:
        return f"{_number(values[key], 1)} of {values[most[key]]}" if key in most else _number(values[key])

    rows = [[name, *(cell(values, key) for values in found.values())] for key, name in MEASURES.items()]
    return ["without any label", *found], rows


def show(result: Result, console: Console) -> None:
    """Print the scorecard."""
    console.print(f"\n[bold]Scorecard[/] {NOTE}")
    for head, rows in (scorecard(result), measures(result)):
        table = Table(box=None, padding=(0, 1, 0, 0))
        names = 2 if head[0] == "task" else 1
        for i, name in enumerate(head):
            table.add_column(name, justify="left" if i < names else "right", overflow="fold")
        for row, above in zip(rows, [None, *rows], strict=False):
            same = names > 1 and above is not None and row[0] == above[0]
            table.add_row("" if same else row[0], *row[1:])
        console.print(table)
    for task, reason in _not_run(result).items():
        console.print(f"{task}: {reason}")


def sections(result: Result, out: Path) -> dict[str, str]:
    """Headings and HTML: the scorecard, and curves over the checkpoints of a run, which are `out/curves_*.png` too."""
    absent = "".join(page.absent(f"{task}: {reason}") for task, reason in _not_run(result).items())
    head, rows = scorecard(result)
    tables = page.table(head, rows, left=2, group=0) + absent + page.table(*measures(result))
    found = {"Scorecard": page.paragraph(NOTE) + tables}
    drawn = []
    for run in _trained(result):
        panels = list(_panels(result, run))
        for i in range(0, len(panels), PANELS):
            figure = curves(panels[i : i + PANELS], 3.4)
            drawn.append(page.plot(figure, f"{run}; dashed: random init."))
            figure.savefig(out / f"curves_{len(drawn)}.png", dpi=130)
    return found | ({"Over training": "".join(drawn)} if drawn else {})


def _panels(result: Result, run: str) -> Iterator[Panel]:
    """One for each task, a line for each of its probes; then one for each measure."""
    points = sorted((c["step"], c["name"]) for c in result["checkpoints"] if c["run"] == run and c["step"] is not None)
    steps = [step for step, _ in points]
    tables = [_by_probe(result["tables"][name]) for _, name in points]
    for task in dict.fromkeys(task for task, *_ in tables[0]):
        asked = [key for key in tables[0] if key[0] == task and all(key in table for table in tables)]
        lines, levels = [], {}
        for colour, key in zip(CYCLE, asked, strict=False):
            own = [table[key]["pretrained"]["mean"] for table in tables]
            lines.append(Line(f"{key[1]} {key[2]}", steps, [math.nan if v is None else v for v in own], colour))
        best = max((tables[0][key]["random_init"]["mean"] or -math.inf for key in asked), default=-math.inf)
        if math.isfinite(best):
            levels = {"random init, its best": best}
        first = tables[0][asked[0]]["pretrained"]
        yield Panel(first["title"], "step", lines, _metric(first["metric"]), levels)
    start = next(iter(result["measures"].values()))
    for key, name in MEASURES.items():
        own = [result["measures"][name][key] for _, name in points]
        if None not in (*own, start[key]):
            yield Panel(name, "step", [Line("", steps, own)], levels={"random init": start[key]})


def _trained(result: Result) -> list[str]:
    """The runs of which several checkpoints were given."""
    runs = [c["run"] for c in result["checkpoints"] if c["step"] is not None]
    return [run for run in dict.fromkeys(runs) if runs.count(run) > 1]


def _by_probe(table: Result) -> dict[tuple[str, str, str], dict[str, Result]]:
    found: dict[tuple[str, str, str], dict[str, Result]] = {}
    for r in (r for r in table["rows"] if r["row"] != "chance"):
        found.setdefault((r["task"], r["probe"], r["view"]), {})[r["row"]] = r
    return found


def _told(table: Result, asked: tuple[str, str, str]) -> str:
    """The mean of a checkpoint's probe, marked where it is beyond random init."""
    for c in table["comparisons"]:
        if (c["task"], c["probe"], c["view"]) == asked:
            mean = _by_probe(table)[asked]["pretrained"]["mean"]
            low, high = c["bootstrap95"]
            apart = None not in (low, high) and (low > 0 or high < 0)
            return _number(mean) + ((" ▲" if low > 0 else " ▼") if apart else "")
    return "n/a"


def _not_run(result: Result) -> dict[str, str]:
    return {task: reason for table in result["tables"].values() for task, reason in table["not_run"].items()}


def _metric(name: str) -> str:
    return {"r2": "R²"}.get(name, name.replace("_", " "))


def _number(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}".replace("-", "−")
