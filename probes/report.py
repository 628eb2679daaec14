"""What the probes found, with intervals: the plain dict that is written as JSON, and a table for the terminal."""

import math
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jepa.probes.features import IMAGE, MAKERS
from jepa.probes.jobs import CHANCE, Measured
from jepa.probes.metrics import bootstrap_difference, t_interval
from jepa.probes.tasks import TASKS

OURS, CONTROL = "pretrained", "random_init"
VERDICTS = {"better": "[green]better", "worse": "[red]worse", "not separated": "–"}


def summarise(measured: list[Measured], seed: int) -> dict[str, Any]:
    """Rows (every seed's number, mean, 95 % t-interval over seeds) and, per probe, pretrained minus random init."""
    groups: dict[tuple[str, str, str], dict[str, list[Measured]]] = {}
    for m in sorted(measured, key=lambda m: m.seed):
        groups.setdefault((m.task, m.kind, m.view), {}).setdefault(m.maker, []).append(m)
    order = {task: i for i, task in enumerate(TASKS)}
    keys = sorted(groups, key=lambda k: (order[k[0]], k[1] == CHANCE, (k[1], k[2]) if k[1] != CHANCE else ("", "")))
    rows = [_row(ms) for key in keys for _, ms in sorted(groups[key].items(), key=lambda item: _place(item[0]))]
    comparisons = [_compare(groups[key][OURS], groups[key][CONTROL], seed) for key in keys if OURS in groups[key]]
    return {"rows": rows, "comparisons": comparisons}


def _place(maker: str) -> int:
    return (*MAKERS, CHANCE).index(maker)


def _row(seeds: list[Measured]) -> dict[str, Any]:
    first = seeds[0]
    metric = TASKS[first.task].metric
    values = [m.scores[metric] for m in seeds]
    mean, low, high = t_interval(np.array(values))
    return {
        "task": first.task,
        "title": TASKS[first.task].title,
        "probe": first.kind,
        "view": first.view,
        "row": first.maker,
        "metric": metric,
        "values": [_number(v) for v in values],
        "mean": _number(mean),
        "t95": [_number(low), _number(high)],
        "other": {k: [_number(m.scores[k]) for m in seeds] for k in first.scores if k != metric},
        "chosen": [m.chosen for m in seeds],
        "train_clips": [m.train_clips for m in seeds],
        "test_clips": [len(m.episodes) for m in seeds],
        "test_episodes": len(np.unique(np.concatenate([m.episodes for m in seeds]))),
    }


def _compare(ours: list[Measured], control: list[Measured], seed: int) -> dict[str, Any]:
    """Paired difference; a verdict other than `not separated` needs both intervals on one side of zero."""
    metric = TASKS[ours[0].task].metric
    difference = np.array([a.scores[metric] - b.scores[metric] for a, b in zip(ours, control, strict=True)])
    mean, *t95 = t_interval(difference)
    bootstrap = bootstrap_difference(
        [(m.sums, m.episodes) for m in ours],
        [(m.sums, m.episodes) for m in control],
        metric,
        np.random.default_rng(seed),
    )
    bounds = (*t95, *bootstrap)
    verdict = "not separated"
    if all(b > 0 for b in bounds):
        verdict = "better"
    elif all(b < 0 for b in bounds):
        verdict = "worse"
    return {
        "task": ours[0].task,
        "probe": ours[0].kind,
        "view": ours[0].view,
        "metric": metric,
        "difference": _number(mean),
        "t95": [_number(b) for b in t95],
        "bootstrap95": [_number(b) for b in bootstrap],
        "verdict": verdict,
    }


def _number(value: float) -> float | None:
    """JSON has no NaN: an undefined number is null."""
    return round(float(value), 6) if math.isfinite(value) else None


def show(result: dict[str, Any], console: Console) -> None:
    """Print the table, what was not run and why, and how often pre-training won."""
    console.print(
        "\nFrozen features, episodes the probes were not trained on, mean over seeds; flat pixels are 16×16 thumbnails:"
    )
    rows = {(r["task"], r["probe"], r["view"], r["row"]): r for r in result["rows"]}
    for task in dict.fromkeys(c["task"] for c in result["comparisons"]):
        chance = rows[task, CHANCE, "", CHANCE]
        metric = chance["metric"].replace("_", " ")
        title = f"[bold]{chance['title']}[/] ({metric}; chance {_show(chance['mean'])})"
        table = Table(title=title, title_justify="left", title_style="", box=None, padding=(0, 1, 0, 0))
        seen = {row for *_, row in rows}
        widths = {"pixels": 7, CONTROL: 12, IMAGE: 7, OURS: 11}
        makers = {maker: width for maker, width in widths.items() if maker in seen}
        for name, width in (("", 18), *((m.replace("_", " "), width) for m, width in makers.items())):
            table.add_column(name, width=width, justify="right" if name else "left")
        table.add_column("pretrained − random", width=24)
        table.add_column("", width=7)
        for c in (c for c in result["comparisons"] if c["task"] == task):
            cells = [_show(rows[task, c["probe"], c["view"], m]["mean"]) for m in makers]
            low, high = c["bootstrap95"]
            change = f"{_show(c['difference'], '+')} \\[{_show(low, '+')}, {_show(high, '+')}]"
            table.add_row(f"{c['probe']} {c['view']}", *cells, change, VERDICTS[c["verdict"]])
        console.print(table)
    for task, reason in result["not_run"].items():
        console.print(f"{task}: {reason}")
    won = sum(c["verdict"] == "better" for c in result["comparisons"])
    console.print(
        f"Beyond both 95 % intervals (over seeds; over test episodes, in brackets) pretrained beats random init on "
        f"{won} of {len(result['comparisons'])} probes. {result['seconds']} s"
    )


def _show(value: float | None, sign: str = "") -> str:
    return "n/a" if value is None else f"{value:{sign}.3f}"
