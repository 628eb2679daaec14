"""The statistics of a benchmark: rates with intervals, paired comparisons on the same goals, and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table

REFERENCE = "ours"
THIRDS = ("near", "middle", "far")
RESAMPLES = 2000
HOW = (
    "Intervals are 95 % Wilson intervals of the mean over goals and seeds that count every goal once, however many "
    "seeds it has: seeds are no further goals, so they are never too narrow for that. p: McNemar's exact test against "
    "ours, on the goals that both rows ran, at their first seed. Difference: ours minus the row, of the mean over "
    "seeds, with a 95 % bootstrap over goals."
)
Outcomes = Mapping[str, Sequence[bool]]
"""For each goal whether it was reached, at every seed, the first seed first."""


def rate(outcomes: Outcomes) -> dict[str, Any]:
    """Share of successes over goals and seeds, and its 95 % Wilson interval with every goal counted once.

    With several seeds also `bootstrap`, the interval of the same share by drawing goals, and the share of each seed.
    """
    shares = _shares(outcomes)
    goals, mean = len(shares), float(shares.mean())
    z = 1.959964
    centre = (mean + z**2 / (2 * goals)) / (1 + z**2 / goals)
    half = z / (1 + z**2 / goals) * (mean * (1 - mean) / goals + z**2 / (4 * goals**2)) ** 0.5
    told: dict[str, Any] = {"rate": mean, "low": max(0.0, centre - half), "high": min(1.0, centre + half)}
    if (seeds := min(map(len, outcomes.values()))) > 1:
        told["bootstrap"] = _bootstrap(shares)
        told["seeds"] = [float(np.mean([found[s] for found in outcomes.values()])) for s in range(seeds)]
    return told


def paired(ours: Outcomes, other: Outcomes) -> dict[str, Any]:
    """Ours against another row on the goals that both ran.

    Exact McNemar test at the first seed: who solved what the other did not, and its p-value. `difference`, ours minus
    the other, of shares over seeds, with its 95 % bootstrap interval over goals.
    """
    from scipy.stats import binomtest

    both = [goal for goal in ours if goal in other]
    only_ours = sum(ours[g][0] and not other[g][0] for g in both)
    only_other = sum(other[g][0] and not ours[g][0] for g in both)
    differing = only_ours + only_other
    p = float(binomtest(only_ours, differing, 0.5).pvalue) if differing else 1.0
    gaps = _shares({g: ours[g] for g in both}) - _shares({g: other[g] for g in both})
    low, high = _bootstrap(gaps)
    told = {"goals": len(both), "only_ours": only_ours, "only_other": only_other, "p": p}
    return told | {"difference": float(gaps.mean()), "low": low, "high": high}


def _shares(outcomes: Outcomes) -> np.ndarray:
    return np.array([np.mean(found) for found in outcomes.values()])


def _bootstrap(values: np.ndarray) -> list[float]:
    """95 % percentile interval of the mean of `values`, one for each goal."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    return [float(edge) for edge in np.percentile(means, (2.5, 97.5))]


def outcomes(record: Mapping[str, Any], key: str = "success") -> Outcomes:
    """The outcomes of a row's episodes, which come seed by seed."""
    found: dict[str, list[bool]] = {}
    for episode in record["episodes"]:
        found.setdefault(episode["goal"], []).append(episode[key])
    return found


def summarise(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One summary for each (task, row) from the rows' own records, in their order."""
    reached = {(r["task"], r["row"]): outcomes(r) for r in records}
    groups = {task: thirds([r for r in records if r["task"] == task]) for task in {r["task"] for r in records}}
    summaries = []
    for r in records:
        own, ours = reached[r["task"], r["row"]], reached.get((r["task"], REFERENCE))
        curves = [e["distance"] for e in r["episodes"]]
        summaries.append(
            {
                **{k: r[k] for k in ("task", "row", "label", "seed", "seconds", "model_steps", "films")},
                "n": len(own),
                "seeds": max(map(len, own.values())),
                "success": rate(own),
                "close": rate(outcomes(r, "close")),
                "by_distance": [_within(third, own) for third in groups[r["task"]]],
                "curve": [sum(c) / len(curves) for c in zip(*curves, strict=True)],
                "versus_ours": paired(ours, own) if ours and r["row"] != REFERENCE else None,
            }
        )
    return summaries


def thirds(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The goals of one task in thirds by their distance at the start, the same for every row.

    Each has a `third` of THIRDS, its `goals`, and its least and largest distance, `low` and `high`, in metres. With
    fewer than three goals there are fewer.
    """
    starts = {e["goal"]: e["distance"][0] for r in records for e in r["episodes"]}
    split = np.array_split(sorted(starts, key=lambda goal: (starts[goal], goal)), len(THIRDS))
    return [
        {"third": name, "low": starts[goals[0]], "high": starts[goals[-1]], "goals": goals.tolist()}
        for name, goals in zip(THIRDS, split, strict=True)
        if len(goals)
    ]


def _within(third: Mapping[str, Any], found: Outcomes) -> dict[str, Any]:
    """Success of a row on the goals of a third; None where it ran none of them."""
    own = {goal: found[goal] for goal in third["goals"] if goal in found}
    return {**{k: third[k] for k in ("third", "low", "high")}, "n": len(own), "success": rate(own) if own else None}


def tables(summaries: Sequence[Mapping[str, Any]], tolerance: float, close: float) -> Group:
    """The results for the terminal, a table for each task."""
    tasks = list(dict.fromkeys(s["task"] for s in summaries))
    parts = [_table(task, [s for s in summaries if s["task"] == task], tolerance, close) for task in tasks]
    return Group(*parts, "n: goals × seeds. (…): 95 % Wilson over goals. p: McNemar with ours. s, steps: a decision.")


def _table(task: str, summaries: Sequence[Mapping[str, Any]], tolerance: float, close: float) -> Table:
    title = f"{task}: final distance to the goal, from seed {summaries[0]['seed']}"
    out = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    out.add_column("row", no_wrap=True)
    for head in ("n", f"≤ {tolerance * 100:.0f} cm", f"≤ {close * 100:.0f} cm", "cm to go", "p", "s", "steps"):
        out.add_column(head, justify="right", no_wrap=True)
    for s in summaries:
        versus = s["versus_ours"]
        out.add_row(
            s["label"],
            count(s),
            f"{s['success']['rate']:.0%} ({s['success']['low'] * 100:.0f}–{s['success']['high'] * 100:.0f})",
            f"{s['close']['rate']:.0%}",
            f"{s['curve'][0] * 100:.1f} → {s['curve'][-1] * 100:.1f}",
            f"{versus['p']:.2g}" if versus else "",
            f"{s['seconds']:.2f}",
            str(s["model_steps"]),
        )
    return out


def count(summary: Mapping[str, Any]) -> str:
    """How many goals, and seeds where there are several."""
    return str(summary["n"]) + (f" × {summary['seeds']}" if summary["seeds"] > 1 else "")
