"""The statistics of a benchmark: rates with intervals, paired comparisons on the same goals, and the table."""

from collections.abc import Sequence
from typing import Any

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
        ours = solved.get((job["task"], REFERENCE))
        compare = ours is not None and job["row"] != REFERENCE
        curves = [e["distance"] for e in episodes]
        records.append(
            {
                **{k: job[k] for k in ("task", "row", "label", "seed", "seconds", "model_steps", "films")},
                "n": len(episodes),
                "success": rate([e["success"] for e in episodes]),
                "close": rate([e["close"] for e in episodes]),
                "curve": [sum(c) / len(curves) for c in zip(*curves, strict=True)],
                "versus_ours": paired(ours, solved[job["task"], job["row"]]) if compare else None,
            }
        )
    return records


def table(records: Sequence[dict[str, Any]], tolerance: float, close: float) -> Table:
    """The results as a table for the terminal."""
    out = Table(title="Planning: final distance to the goal, the same goals for every row")
    out.add_column("task")
    out.add_column("row")
    heads = ["n", f"≤ {tolerance * 100:.0f} cm", "95 %", f"≤ {close * 100:.0f} cm", "start → final, cm"]
    for head in [*heads, "p vs ours", "s / decision", "model steps", "seed"]:
        out.add_column(head, justify="right")
    for r in records:
        s, versus = r["success"], r["versus_ours"]
        out.add_row(
            r["task"],
            r["label"],
            str(r["n"]),
            f"{s['rate']:.0%}",
            f"{s['low']:.0%}–{s['high']:.0%}",
            f"{r['close']['rate']:.0%}",
            f"{r['curve'][0] * 100:.1f} → {r['curve'][-1] * 100:.1f}",
            f"{versus['p']:.2g}" if versus else "",
            f"{r['seconds']:.2f}",
            str(r["model_steps"]),
            str(r["seed"]),
        )
    return out
