"""The statistics of a benchmark: rates with intervals, paired comparisons on the same goals, and tables."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

REFERENCE = "ours"


def rate(successes: Sequence[bool]) -> dict[str, float]:
    """Share of successes with its 95 % Wilson interval."""
    from scipy.stats import binomtest

    interval = binomtest(sum(successes), len(successes)).proportion_ci(0.95, method="wilson")
    return {"rate": sum(successes) / len(successes), "low": float(interval.low), "high": float(interval.high)}


def paired(ours: dict[str, bool], other: dict[str, bool]) -> dict[str, float]:
    """Exact McNemar test on the goals that both rows ran: who solved what the other did not, and its p-value."""
    from scipy.stats import binomtest

    both = [goal for goal in ours if goal in other]
    only_ours = sum(ours[g] and not other[g] for g in both)
    only_other = sum(other[g] and not ours[g] for g in both)
    differing = only_ours + only_other
    p = float(binomtest(only_ours, differing, 0.5).pvalue) if differing else 1.0
    return {"goals": len(both), "only_ours": only_ours, "only_other": only_other, "p": p}


def summarise(jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record for each (task, row) from the jobs' own records, in their order."""
    solved = {(j["task"], j["row"]): {e["goal"]: e["success"] for e in j["episodes"]} for j in jobs}
    records = []
    for job in jobs:
        episodes = job["episodes"]
        ours = solved.get((job["task"], REFERENCE)) if job["row"] != REFERENCE else None
        curves = [e["distance"] for e in episodes]
        records.append(
            {
                **{k: job[k] for k in ("task", "row", "label", "seed", "seconds", "model_steps", "films")},
                "n": len(episodes),
                "success": rate([e["success"] for e in episodes]),
                "close": rate([e["close"] for e in episodes]),
                "curve": [sum(c) / len(curves) for c in zip(*curves, strict=True)],
                "versus_ours": paired(ours, solved[job["task"], job["row"]]) if ours else None,
            }
        )
    return records


def tables(records: Sequence[dict[str, Any]], tolerance: float, close: float) -> Group:
    """The results for the terminal, a table for each task."""
    tasks = list(dict.fromkeys(r["task"] for r in records))
    parts = [_table(task, [r for r in records if r["task"] == task], tolerance, close) for task in tasks]
    return Group(*parts, "(…): 95 % Wilson. p: exact McNemar against ours. s, steps of the model: for each decision.")


def _table(task: str, records: Sequence[dict[str, Any]], tolerance: float, close: float) -> Table:
    title = f"{task}: final distance to the goal, seed {records[0]['seed']}"
    out = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    out.add_column("row", no_wrap=True)
    for head in ("n", f"≤ {tolerance * 100:.0f} cm", f"≤ {close * 100:.0f} cm", "cm to go", "p", "s", "steps"):
        out.add_column(head, justify="right", no_wrap=True)
    for r in records:
        s, versus = r["success"], r["versus_ours"]
        out.add_row(
            r["label"],
            str(r["n"]),
            f"{s['rate']:.0%} ({s['low'] * 100:.0f}–{s['high'] * 100:.0f})",
            f"{r['close']['rate']:.0%}",
            f"{r['curve'][0] * 100:.1f} → {r['curve'][-1] * 100:.1f}",
            f"{versus['p']:.2g}" if versus else "",
            f"{r['seconds']:.2f}",
            str(r["model_steps"]),
        )
    return out
