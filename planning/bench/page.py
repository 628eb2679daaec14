"""The page of a planning benchmark: tables, curves, films and the commands, in one self-contained HTML file."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jepa import report_html as html
from jepa.planning.bench.results import HOW, count
from jepa.planning.bench.rows import LABELS
from jepa.report_figures import CYCLE, Line, Panel, curves

STYLES = ("-", "--", ":")
ORACLE = (
    "The oracle plans in the true simulator on metres: reach by the hand's distance, push by the object's and a little "
    "for not being behind it; other tasks by the distance of the whole scene to each of the expert's sub-goals in turn."
)
COMPUTE = (
    "Success over the effort of a decision, at the first seed: each planner with more and fewer candidates than in the "
    "tables. Seconds are of one episode's decision, with episodes planned in batches, without rendering and physics."
)
DISTANCE = "Success by the goal's distance at the start, in thirds of the goals, with 95 % Wilson intervals:"
SKILL = (
    "Open loop on the held-out episodes of each post-training, in the features of its own encoder. `skill@k`: 1 minus "
    "the error after k steps over the error of copying the first frame. `shuffle@k`: the error with another window's "
    "actions over the error with the true ones; 1 ignores the action."
)


def write(contents: Mapping[str, Any], records: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write FOLDER/bench.html and return its path.

    Args:
        contents: of results.json. records: the rows with their episodes.
    """
    sections = {"Summary": _summary(contents)}
    for task in contents["tasks"]:
        sections[task] = _task(task, contents, [r for r in records if r["task"] == task])
    sections["Success and compute"] = _compute(contents["curves"])
    sections["Open-loop prediction"] = _skill(contents["open_loop"])
    shown = [folder / film for row in contents["rows"] for film in row["films"]]
    films = "".join(html.picture(f, f"{f.stem}: start | goal | view", "pixels") for f in shown)
    sections["Films"] = f'<div class="films">{films}</div>' if films else html.absent("films=0")
    sections["How each number was made"] = _made(contents)
    subtitle = f"{contents['config']['world']}, seed {contents['config']['seed']}"
    return html.write_page(folder / "bench.html", "Planning benchmark", subtitle, sections)


def _summary(contents: Mapping[str, Any]) -> str:
    told = [f"{task}: {about['success']}" for task, about in contents["tasks"].items()]
    best = {
        task: ", ".join(f"{r['label']} {_rate(r['success'])}" for r in contents["rows"] if r["task"] == task)
        for task in contents["tasks"]
    }
    return (
        html.paragraph(
            f"Success is judged in the last state of an episode, after all its decisions. {'; '.join(told)}."
        )
        + "".join(html.paragraph(text, name=task) for task, text in best.items())
        + html.paragraph(HOW, "soft")
        + "".join(html.absent(f"row {LABELS[row]}: {reason}") for row, reason in contents["omitted"].items())
    )


def _task(task: str, contents: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    about, rows = contents["tasks"][task], [r for r in contents["rows"] if r["task"] == task]
    near, nearer = (f"≤ {100 * contents[k]:g} cm" for k in ("tolerance", "close"))
    head = ["row", "goals × seeds", near, "95 %", "bootstrap", nearer, "start → end, cm", "ours minus it", "p"]
    head += ["s / decision", "model steps / decision"]
    cells = [
        [
            *(r["label"], count(r), f"{r['success']['rate']:.0%}", _between(r["success"])),
            "{:.0%}–{:.0%}".format(*r["success"]["bootstrap"]) if "bootstrap" in r["success"] else "",
            *(f"{r['close']['rate']:.0%}", f"{100 * r['curve'][0]:.1f} → {100 * r['curve'][-1]:.1f}"),
            *_versus(r["versus_ours"]),
            *(f"{r['seconds']:.3f}", str(r["model_steps"])),
        ]
        for r in rows
    ]
    aims = "the expert's sub-goal images in turn" if about["subgoals"] else "the goal image alone"
    text = f"Success: {about['success']}. {about['decisions']} decisions; rows that plan see {aims}."
    text += f" {ORACLE}" if any(r["row"] == "oracle" for r in rows) else ""
    labels = [r["label"] for r in rows]
    panel = _distances(task, [r for r in records if r["label"] in labels], contents["tolerance"])
    caption = "Distance to the goal: medians, and shaded the middle half of ours."
    stops = sorted({e["stopped"] for r in records for e in r["episodes"]} - {""})
    notes = "".join(html.paragraph(f"Some episodes were stopped: {reason}", "soft") for reason in stops)
    table = html.table(head, cells, marked="ours") + notes + _by_distance(rows)
    return html.paragraph(text) + table + html.plot(curves([panel], 4.6), caption)


def _by_distance(rows: Sequence[Mapping[str, Any]]) -> str:
    """Success in thirds of the goals: the same for every row, of which one may have run fewer goals."""
    spans = [f"{t['third']}: {100 * t['low']:.1f}–{100 * t['high']:.1f} cm" for t in rows[0]["by_distance"]]
    cells = [
        [r["label"], *(f"{_rate(t['success'])}, n = {t['n']}" if t["n"] else "" for t in r["by_distance"])]
        for r in rows
    ]
    return html.paragraph(DISTANCE) + html.table(["row", *spans], cells, marked="ours")


def _versus(told: Mapping[str, Any] | None) -> list[str]:
    if told is None:
        return ["", ""]
    gap = "{:+.0f} [{:+.0f}, {:+.0f}]".format(*(100 * told[k] for k in ("difference", "low", "high")))
    return [gap.replace("-", "−"), f"{told['p']:.2g} ({told['only_ours']} : {told['only_other']})"]


def _distances(task: str, records: Sequence[Mapping[str, Any]], tolerance: float) -> Panel:
    lines = []
    for (style, colour), r in zip(itertools.product(STYLES, CYCLE), records, strict=False):
        low, middle, high = np.percentile([e["distance"] for e in r["episodes"]], (25, 50, 75), axis=0) * 100
        band = (low, high) if r["row"] == "ours" else None  # a dozen would hide one another
        lines.append(Line(r["label"], range(len(middle)), middle, colour, style, band))
    return Panel(task, "decision", lines, "distance, cm", {"counts as reached": 100 * tolerance}, zero=True)


def _compute(points: Sequence[Mapping[str, Any]]) -> str:
    if not points:
        return html.absent("no budgets=[…] given")
    head = ["task", "row", "times the candidates", "success", "95 %", "s / decision", "model steps / decision"]
    cells = [
        [
            *(p["task"], p["label"], f"{p['budget']:.3g}", f"{p['success']['rate']:.0%}"),
            *(_between(p["success"]), f"{p['seconds']:.3f}", str(p["model_steps"])),
        ]
        for p in points
    ]
    plots = ""
    for task in dict.fromkeys(p["task"] for p in points):
        own = [p for p in points if p["task"] == task]
        panels = [_over(task, own, key, name) for key, name in (("seconds", "s"), ("model_steps", "model steps"))]
        plots += html.plot(
            curves(panels, 3.6), f"{task}: success over the effort of a decision; shaded, the 95 % interval of ours."
        )
    return html.paragraph(COMPUTE) + plots + html.table(head, cells, left=2, group=0)


def _over(task: str, points: Sequence[Mapping[str, Any]], key: str, name: str) -> Panel:
    lines = []
    for colour, planner in zip(itertools.cycle(CYCLE), dict.fromkeys(p["label"] for p in points), strict=False):
        own = sorted((p for p in points if p["label"] == planner), key=lambda p: p[key])
        rates, low, high = ([100 * p["success"][k] for p in own] for k in ("rate", "low", "high"))
        band = (low, high) if planner == LABELS["ours"] else None
        lines.append(Line(planner, [p[key] for p in own], rates, colour, "-", band))
    return Panel(task, f"{name} a decision", lines, "success, %")


def _skill(told: Sequence[Mapping[str, Any]]) -> str:
    found = [t for t in told if "absent" not in t]
    keys = [k for k in dict.fromkeys(k for t in found for k in t) if "@" in k]
    absent = "".join(html.absent(f"{t['label']}: {t['absent']}") for t in told if "absent" in t)
    if not found:
        return absent
    cells = [
        [t["label"], str(t["episodes"]), *(f"{t[k]:.3f}".replace("-", "−") if k in t else "" for k in keys)]
        for t in found
    ]
    return html.paragraph(SKILL) + html.table(["world", "episodes", *keys], cells) + absent


def _made(contents: Mapping[str, Any]) -> str:
    lines = [row["command"] for row in contents["rows"]]
    text = "This command makes all of it, and with another `out=…` makes it anew; below, one for each row with ours, "
    text += "which makes it anew in a folder of its own:"
    return (
        html.paragraph(text)
        + html.commands([contents["command"]])
        + html.commands(lines)
        + html.folded("the whole config", contents["config"])
    )


def _rate(rate: Mapping[str, Any]) -> str:
    return f"{rate['rate']:.0%} ({_between(rate)})"


def _between(rate: Mapping[str, Any]) -> str:
    return f"{rate['low']:.0%}–{rate['high']:.0%}"
