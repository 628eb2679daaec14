"""What dense probes found, with intervals: the plain dict that is written as JSON, and a table for the terminal."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jepa.bootstrap import resamples
from jepa.probes.dense.maps import scores_of
from jepa.probes.figures import numbers
from jepa.probes.metrics import Array, by_episode, t_interval

OURS, CONTROL = "pretrained", "random_init"
DRAWS = 2000  # of the bootstrap


def summarise(sums: dict[str, list[Array]], groups: np.ndarray, is_depth: bool, seed: int) -> dict[str, Any]:
    """Every row's scores by seed, and pretrained minus random init with a paired bootstrap over groups of images.

    `sums` are by row, for each seed those per test image (B, S) of `jepa.probes.dense.maps`; `groups` (B). A single
    group says nothing of others: the interval is then null.
    """
    rows = {}
    for maker, own in sums.items():
        scores = scores_of(np.stack([s.sum(0) for s in own]), is_depth)  # (seeds) each
        rows[maker] = {name: [round(float(value), 6) for value in values] for name, values in scores.items()}
    ids = np.unique(groups)
    weights = resamples(len(ids), DRAWS, np.random.default_rng(seed))
    drawn = {
        maker: [scores_of(weights @ by_episode(s, groups, ids), is_depth) for s in sums[maker]]
        for maker in (OURS, CONTROL)
    }
    differences = {}
    for name in rows[OURS]:
        spread = np.mean([a[name] - b[name] for a, b in zip(drawn[OURS], drawn[CONTROL], strict=True)], axis=0)
        bounds = np.nanquantile(spread, (0.025, 0.975)) if len(ids) > 1 else (np.nan, np.nan)
        mean, *t95 = t_interval(np.array(rows[OURS][name]) - np.array(rows[CONTROL][name]))
        differences[name] = {
            "difference": round(mean, 6),
            "bootstrap95": numbers(bounds),
            "t95": numbers(t95),
        }
    return {"rows": rows, "differences": differences}


def show(result: dict[str, Any], console: Console) -> None:
    """Print every row's mean scores, and what pre-training adds with the interval over groups of test images."""
    train, test = result["images"]
    table = Table(title=f"{result['config']['task']}, mean over seeds, {train} train and {test} test images", box=None)
    names = list(result["rows"][OURS])
    for name in ("", *names):
        table.add_column(name.replace("_", " "), justify="right" if name else "left")
    for maker, scores in result["rows"].items():
        table.add_row(maker.replace("_", " "), *(f"{np.mean(scores[name]):.3f}" for name in names))
    console.print(table)
    for name, found in result["differences"].items():
        low, high = found["bootstrap95"]
        span = "(one group of test images: no interval)" if low is None else f"[{low:+.3f}, {high:+.3f}]"
        console.print(f"{name}: pretrained − random init {found['difference']:+.3f} {span}", markup=False)
