"""Compare results of `jepa probe` on the same clips: paired differences to the first folder, with intervals."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jepa.probes.figures import VERDICTS, between, number, numbers, shown, verdict
from jepa.probes.kinds.base import ProbeError, score_sums
from jepa.probes.metrics import METRICS, Array, alone, bootstrap_difference, t_interval
from jepa.probes.predictions import Predictions
from jepa.probes.results import Key, Results, common_seeds, more, open_results
from jepa.probes.tasks import TASKS


def run(folders: Sequence[str | Path], row: str = "pretrained", seed: int = 0, out: str = "") -> dict[str, Any]:
    """Compare a row of the results in `folders`, each the `out` of `jepa probe`, with that of the first; print tables.

    A difference is the mean over the probe seeds that both have. It has three intervals of 95 %: over seeds
    (Student's t, paired), over the test episodes and over the test clips (bootstrap, paired; drawn by `seed`). Clips of
    one episode are alike: the verdict needs the intervals over seeds and over episodes on one side of zero.
    `only` lists the seeds, rows, tasks and probes that one folder of a pair has and the other has not. Writes the
    result to the JSON file `out`, if given.

    Raises:
        ProbeError: fewer than two folders, one without results, results on other clips, or no seed or probe in common.
    """
    if len(folders) < 2:
        raise ProbeError("give two folders or more; the first is the reference")
    reference, *others = (open_results(Path(folder), row) for folder in folders)
    compared, only = [], []
    for other in others:
        seeds = common_seeds(other, reference)
        keys = [key for key in reference.probes if key in other.probes]
        if not keys:
            raise ProbeError(f"{other.folder} has no task and probe in common with {reference.folder}")
        compared += [_paired(other, reference, key, seeds, seed) for key in keys]
        only += [
            {"folder": a.folder, "against": b.folder, "has": extra}
            for a, b in ((reference, other), (other, reference))
            if (extra := more(a, b))
        ]
    result = {"reference": reference.folder, "row": row, "comparisons": compared, "only": only}
    if out:
        Path(out).write_text(json.dumps(result, indent=1, allow_nan=False))
    show(result, Console())
    return result


def show(result: dict[str, Any], console: Console) -> None:
    """Print a table for each task, then what was not compared."""
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
            kinds = (("bootstrap95", "[]"), ("clips95", "()"), ("t95", "{}"))
            intervals = [escape(between(c[key], "+", brackets)) for key, brackets in kinds]
            means = (shown(c["reference"]), shown(c["mean"]), shown(c["difference"], "+"))
            table.add_row(c["folder"], f"{c['probe']} {c['view']}", *means, *intervals, VERDICTS[c["verdict"]])
        console.print(table)
    for found in result["only"]:
        console.print(escape(f"Only in {found['folder']}, not in {found['against']}: {', '.join(found['has'])}"))


def _paired(here: Results, there: Results, key: Key, seeds: list[int], seed: int) -> Any:
    task, kind, view = key
    ours, reference = here.probes[key], there.probes[key]
    seeds = [s for s in seeds if s in ours and s in reference]
    if not seeds or any(not _same_clips(ours[s], reference[s]) for s in seeds):
        raise ProbeError(
            f"{here.folder}: {task}, {kind} {view} was asked of other clips than in {there.folder}, or other seeds"
        )
    metric = TASKS[task].metric
    sums = [
        [(_sums(p[s], q[s]), p[s].episodes.numpy()) for s in seeds] for p, q in ((ours, reference), (reference, ours))
    ]
    means = [np.array([float(METRICS[metric](own.sum(0))) for own, _ in side]) for side in sums]
    mean, *t95 = t_interval(means[0] - means[1])
    episodes95, clips95 = (
        bootstrap_difference(first, second, metric, np.random.default_rng(seed))
        for first, second in ((sums[0], sums[1]), (alone(sums[0]), alone(sums[1])))
    )
    return {
        "folder": here.folder,
        "task": task,
        "probe": kind,
        "view": view,
        "metric": metric,
        "seeds": seeds,
        "reference": number(means[1].mean()),
        "mean": number(means[0].mean()),
        "difference": number(mean),
        "t95": numbers(t95),
        "bootstrap95": numbers(episodes95),
        "clips95": numbers(clips95),
        "verdict": verdict(*t95, *episodes95),
    }


def _same_clips(a: Predictions, b: Predictions) -> bool:
    return all(torch.equal(x, y) for x, y in ((a.episodes, b.episodes), (a.first, b.first), (a.true, b.true)))


def _sums(p: Predictions, other: Predictions) -> Array:
    """Sums per clip (B, S); classes are those that either predicts."""
    if p.true.ndim > 1:
        return score_sums(p.predicted, p.true)
    return score_sums(p.predicted, p.true, int(max(p.true.max(), p.predicted.max(), other.predicted.max())) + 1)
