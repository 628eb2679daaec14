"""The statistics of the benchmark against numbers known from outside, and goals that are counted once."""

import numpy as np
import pytest

from jepa.planning.bench import results


def once(*flags: bool) -> dict[str, list[bool]]:
    return {f"g{i}": [flag] for i, flag in enumerate(flags)}


def test_wilson_interval():
    r = results.rate(once(*[True] * 13, *[False] * 2))
    assert (r["rate"], r["low"], r["high"]) == pytest.approx((13 / 15, 0.6212, 0.9626), abs=1e-4)
    none, all_ = results.rate(once(*[False] * 20)), results.rate(once(*[True] * 20))
    assert none["low"] == 0 and none["high"] == pytest.approx(0.1611, abs=1e-4)
    assert all_["high"] == 1 and all_["low"] == pytest.approx(0.8389, abs=1e-4)


def test_seeds_are_no_further_goals():
    """The same outcome three times over tells as much as once."""
    one = results.rate(once(*[True] * 6, *[False] * 4))
    three = results.rate({goal: found * 3 for goal, found in once(*[True] * 6, *[False] * 4).items()})
    assert [three[k] for k in ("rate", "low", "high")] == [one[k] for k in ("rate", "low", "high")]
    assert "bootstrap" not in one and three["seeds"] == [0.6] * 3
    rng = np.random.default_rng(1)
    drawn = rng.random((100, 3)) < 0.5
    mixed = results.rate({f"g{i}": row.tolist() for i, row in enumerate(drawn)})
    low, high = mixed["bootstrap"]
    assert mixed["low"] < low < mixed["rate"] < high < mixed["high"], "goals that differ by seed are better known"
    assert mixed["seeds"] == pytest.approx(drawn.mean(0))


def test_exact_mcnemar_on_the_goals_that_both_ran():
    ours = once(*(i < 8 for i in range(12)))
    other = once(*(i in (0, 11) for i in range(12))) | {"elsewhere": [True]}
    # Only ours: g1..g7; only the other: g11. Two-sided: 2·(C(8,0)+C(8,1))/2⁸.
    told = results.paired(ours, other)
    assert (told["goals"], told["only_ours"], told["only_other"]) == (12, 7, 1)
    assert told["p"] == pytest.approx(18 / 256) and told["difference"] == pytest.approx(0.5)
    assert results.paired(ours, ours)["p"] == 1.0


def test_the_paired_difference_takes_all_seeds_and_mcnemar_the_first():
    ours = {f"g{i}": [False, i % 2 == 0] for i in range(10)}
    other = {f"g{i}": [False] for i in range(10)}
    told = results.paired(ours, other)
    assert told["p"] == 1.0 and told["difference"] == pytest.approx(0.25)
    rng, gaps = np.random.default_rng(5), np.array([0.5, 0.0] * 5)
    means = rng.choice(gaps, (20000, 10)).mean(1)
    assert (told["low"], told["high"]) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))), abs=0.03)


def test_success_by_thirds_of_the_start_distance():
    """Near goals are reached, far ones are not; a row of fewer goals is judged in the thirds of all."""

    def record(row, metres, solved):
        episodes = [
            {"goal": f"g{m}", "success": s[seed], "close": False, "distance": [m / 100, 0.0]}
            for seed in range(len(solved[0]))
            for m, s in zip(metres, solved, strict=True)
        ]
        own = {"task": "reach", "row": row, "label": row, "seed": 0, "seconds": 0.1, "model_steps": 3, "films": []}
        return {**own, "episodes": episodes}

    metres = [25, 12, 20, 13, 22, 15, 18]
    ours = record("ours", metres, [[m <= 15, m <= 18] for m in metres])
    few = record("oracle", [12, 18], [[True], [False]])
    ours, few = (told["by_distance"] for told in results.summarise([ours, few]))
    spans = [(t["third"], round(t["low"], 3), round(t["high"], 3), t["n"]) for t in ours]
    assert spans == [("near", 0.12, 0.15, 3), ("middle", 0.18, 0.2, 2), ("far", 0.22, 0.25, 2)]
    assert [t["success"]["rate"] for t in ours] == pytest.approx([1.0, 0.25, 0.0])
    wilson = results.rate({"a": [True, True], "b": [True, True], "c": [True, True]})
    assert ours[0]["success"] == wilson, "seeds are no further goals"
    assert [(t["third"], t["high"], t["n"]) for t in few] == [("near", 0.15, 1), ("middle", 0.2, 1), ("far", 0.25, 0)]
    assert [t["success"] and t["success"]["rate"] for t in few] == [1.0, 0.0, None]
    (lone,) = results.thirds([record("ours", [12], [[True]])])
    assert lone["third"] == "near"


def test_a_summary_pairs_each_row_with_ours_of_its_task():
    def record(row, *solved):
        episodes = [
            {"goal": f"g{i}", "success": s, "close": False, "distance": [0.2, 0.01 if s else 0.1]}
            for i, s in enumerate(solved)
        ]
        own = {"task": "reach", "row": row, "label": row, "seed": 0, "seconds": 0.1, "model_steps": 3, "films": []}
        return {**own, "episodes": episodes}

    ours, other = results.summarise([record("ours", True, True, False), record("other", False, True)])
    assert ours["versus_ours"] is None and ours["n"] == 3 and ours["seeds"] == 1
    assert other["versus_ours"]["goals"] == 2 and other["versus_ours"]["difference"] == pytest.approx(0.5)
    assert ours["curve"] == pytest.approx([0.2, 0.04])
