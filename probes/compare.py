"""Compare results of `jepa probe` on the same clips: paired differences to the first folder, with intervals."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from jepa.probes import predictions
from jepa.probes.kinds.base import ProbeError, score_sums
from jepa.probes.metrics import METRICS, Array, alone, bootstrap_difference, t_interval
from jepa.probes.predictions import Predictions
from jepa.probes.tasks import TASKS

Key = tuple[str, str, str]
"""Task, probe and view."""

VERDICTS = {"better": "[green]better", "worse": "[red]worse", "not separated": "–"}


def run(folders: Sequence[str | Path], row: str = "pretrained", seed: int = 0, out: str = "") -> dict[str, Any]:
    """Compare a row of the results in `folders`, each the `out` of `jepa probe`, with that of the first; print tables.

    A difference is the mean over the probe seeds that both have. It has three intervals of 95 %: over seeds
    (Student's t, paired), over the test episodes and over the test clips (bootstrap, paired; drawn by `seed`). Clips of
    one episode are alike: the verdict needs the intervals over seeds and over episodes on one side of zero. Writes
    the result to the JSON file `out`, if given.

    Raises:
        ProbeError: fewer than two folders, one without results, results on other clips, or no probe in common.
    """
    if len(folders) < 2:
        raise ProbeError("give two folders or more; the first is the reference")
    opened = [_open(Path(folder), row) for folder in folders]
    reference, test = opened[0]
    compared = []
    for folder, (found, other) in zip(folders[1:], opened[1:], strict=True):
        keys = [key for key in reference if key in found]
        if other != test:
            raise ProbeError(
                f"{folder} was tested on other clips than {folders[0]}; give both the same data and settings"
            )
        if not keys:
            raise ProbeError(f"{folder} has no task and probe in common with {folders[0]}")
        compared += [_paired(str(folder), key, found[key], reference[key], seed) for key in keys]
    result = {"reference": str(folders[0]), "row": row, "comparisons": compared}
    if out:
        Path(out).write_text(json.dumps(result, indent=1, allow_nan=False))
    show(result, Console())
    return result


def show(result: dict[str, Any], console: Console) -> None:
    """Print a table for each task."""
    console.print(
        f"\nRow {result['row']}, difference to {result['reference']}; 95 % intervals over test episodes [], over "
        "test clips (), over probe seeds {}:"
    )
    for task in dict.fromkeys(c["task"] for c in result["comparisons"]):
        rows = [c for c in result["comparisons"] if c["task"] == task]
        table = Table(
            title=f"[bold]{TASKS[task].title}[/] ({rows[0]['metric'].replace('_', ' ')})", title_justify="left"
        )
        table.box, table.title_style = None, ""
        for name in ("", "probe", "reference", "here", "difference", "episodes", "clips", "seeds", ""):
            table.add_column(name)
        for c in rows:
            brackets = (("bootstrap95", "\\[", "]"), ("clips95", "(", ")"), ("t95", "{", "}"))
            intervals = [f"{left}{_show(c[k][0], '+')}, {_show(c[k][1], '+')}{right}" for k, left, right in brackets]
            means = (_show(c["reference"]), _show(c["mean"]), _show(c["difference"], "+"))
            table.add_row(c["folder"], f"{c['probe']} {c['view']}", *means, *intervals, VERDICTS[c["verdict"]])
        console.print(table)


def _open(folder: Path, row: str) -> tuple[dict[Key, dict[int, Predictions]], str]:
    """The row's predictions by probe and seed, and what they were tested on."""
    found, test = predictions.read(folder / predictions.FILE)
    by_probe: dict[Key, dict[int, Predictions]] = {}
    for p in (p for p in found if p.maker == row):
        by_probe.setdefault((p.task, p.kind, p.view), {})[p.seed] = p
    if not by_probe:
        rows = ", ".join(dict.fromkeys(p.maker for p in found))
        raise ProbeError(f"{folder} has no row '{row}'; there are: {rows}")
    return by_probe, test


def _paired(folder: str, key: Key, ours: dict[int, Predictions], reference: dict[int, Predictions], seed: int) -> Any:
    task, kind, view = key
    seeds = sorted(ours.keys() & reference.keys())
    if not seeds or any(not _same_clips(ours[s], reference[s]) for s in seeds):
        raise ProbeError(
            f"{folder}: {task}, {kind} {view} was asked of other clips than in the reference, or other seeds"
        )
    metric = TASKS[task].metric
    sums = [
        [(_sums(p[s], q[s]), p[s].episodes.numpy()) for s in seeds] for p, q in ((ours, reference), (reference, ours))
    ]
    here, there = (np.array([float(METRICS[metric](own.sum(0))) for own, _ in side]) for side in sums)
    mean, *t95 = t_interval(here - there)
    episodes95, clips95 = (
        bootstrap_difference(first, second, metric, np.random.default_rng(seed))
        for first, second in ((sums[0], sums[1]), (alone(sums[0]), alone(sums[1])))
    )
    return {
        "folder": folder,
        "task": task,
        "probe": kind,
        "view": view,
        "metric": metric,
        "seeds": seeds,
        "reference": _number(there.mean()),
        "mean": _number(here.mean()),
        "difference": _number(mean),
        "t95": [_number(b) for b in t95],
        "bootstrap95": [_number(b) for b in episodes95],
        "clips95": [_number(b) for b in clips95],
        "verdict": _verdict((*t95, *episodes95)),
    }


def _same_clips(a: Predictions, b: Predictions) -> bool:
    return all(torch.equal(x, y) for x, y in ((a.episodes, b.episodes), (a.first, b.first), (a.true, b.true)))


def _sums(p: Predictions, other: Predictions) -> Array:
    """Sums per clip (B, S); classes are those that either predicts."""
    if p.true.ndim > 1:
        return score_sums(p.predicted, p.true)
    return score_sums(p.predicted, p.true, int(max(p.true.max(), p.predicted.max(), other.predicted.max())) + 1)


def _verdict(bounds: Sequence[float]) -> str:
    if all(b > 0 for b in bounds):
        return "better"
    return "worse" if all(b < 0 for b in bounds) else "not separated"


def _number(value: float) -> float | None:
    """JSON has no NaN: an undefined number is null."""
    return round(float(value), 6) if math.isfinite(value) else None


def _show(value: float | None, sign: str = "") -> str:
    return "n/a" if value is None else f"{value:{sign}.3f}"
