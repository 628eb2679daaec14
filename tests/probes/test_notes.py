"""Notes say what was left out and what could not be chosen, on the terminal and on the page; else there are none."""

import io

from rich.console import Console

from jepa.probes import page, report
from jepa.probes.figures import between, shown, verdict
from jepa.probes.notes import notes


def result(validation: float | None = 0.5, **given):
    row = {"task": "gripper", "title": "gripper position", "probe": "regression", "view": "pooled", "metric": "r2"}
    row |= {"row": "pretrained", "mean": 0.1, "best_on_test": None, "classes": None, "test_clips": [4]}
    row |= {key: [None, None] for key in ("t95", "bootstrap95", "clips95")}
    row |= {"chosen": [[{"alpha": 0.1, "validation": 0.2}, {"alpha": 0.1, "validation": validation}]]}
    config = {"encoder": "runs/a", "folds": 0, "seeds": 1}
    return {
        "config": config,
        "episodes": {"train": 9, "test": 3},
        "rows": [row, row | {"probe": "chance", "view": "", "row": "chance", "chosen": [[{}, {}]]}],
        "comparisons": [],
        "not_run": {},
        "seconds": 1.0,
    } | given


def said(found) -> str:
    console = Console(file=io.StringIO(), width=400)
    report.show(found, console)
    return console.file.getvalue()


def test_there_are_none_where_there_is_nothing_to_say(tmp_path):
    assert notes(result()) == notes(result(skipped={})) == []
    assert "Notes" not in page.write_page(result(), {}, tmp_path).read_text()


def test_episodes_that_are_left_out_are_counted_and_the_first_named(tmp_path):
    found = result(skipped={"train": {"episodes": 4, "keys": ["a", "[b]"]}, "test": {"episodes": 1, "keys": ["e"]}})
    for text in (said(found), page.write_page(found, {}, tmp_path).read_text()):
        assert "train: 4 episodes are shorter than a clip and left out: a, [b], …" in text
        assert "test: 1 episodes are shorter than a clip and left out: e" in text


def test_a_choice_without_a_score_is_told(tmp_path):
    found = result(validation=None)
    for text in (said(found), page.write_page(found, {}, tmp_path).read_text()):
        assert "gripper position, regression pooled: in 1 of 2 fits the validation score is undefined" in text


def test_an_undefined_interval_is_a_dash_and_no_verdict(tmp_path):
    assert between([None, None]) == "–" and between([-0.5, 12.0], "+", "()") == "(−0.500, +12.0)"
    assert shown(None) == "n/a" and shown(0.1234) == "0.123"
    assert [verdict(0.1, 0.2), verdict(-0.1, -0.2), verdict(-0.1, 0.2)] == ["better", "worse", "not separated"]
    assert verdict(0.1, 0.2, float("nan"), float("nan")) == "not separated"
    assert "<td>–</td>" in page.write_page(result(), {}, tmp_path).read_text()
