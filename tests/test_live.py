"""The dashboard says what the files say, follows a run that others write, and leaves log files plain."""

import io
import json
import time

import pytest
from rich.console import Console
from rich.errors import LiveError
from typer.testing import CliRunner

from jepa import live as view
from jepa.cli import app
from jepa.config import ConfigError
from jepa.dashboard import blocks, duration, line, panel
from jepa.figures import BINS, Curve, Figures, figures_of, lights
from jepa.logs import JsonLines

NAN = float("nan")


def records(steps, **more):
    """What a healthy run logs, with something else in it."""
    healthy = {"loss": 0.5, "lr": 1e-3, "grad_norm": 1.0, "feature_std": 1.0}
    healthy |= {"speed/step_s": 2.0, "speed/data_wait": 0.02, "speed/clips_s": 12.0, "speed/memory_gib": 3.0}
    return [{"step": step, **healthy, **more} for step in steps]


def drawn(*args, width=100, **kwargs):
    screen = Console(file=io.StringIO(), width=width)
    screen.print(panel(*args, **kwargs))
    return screen.file.getvalue()


def colours(log, alarms=()):
    return {light.name: light.colour for light in lights(figures_of(log), alarms)}


@pytest.fixture
def run(tmp_path):
    """The folder of a run of ten steps that has done four."""
    (tmp_path / "config.json").write_text(json.dumps({"encoder": {}, "loop": {"steps": 10}}))
    write(tmp_path / "log.jsonl", records(range(1, 5)))
    for name in ("step_00000003", "step_00000004.partial", "step_00000004"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_00000003" / "state.json").write_text("{}")
    return tmp_path


def write(path, lines, mode="w"):
    with path.open(mode) as file:
        file.write("".join(json.dumps(entry) + "\n" for entry in lines))


def test_a_curve_keeps_its_shape_and_stays_small():
    curve = Curve()
    for step in range(10_000):
        curve.add(step)
    assert BINS <= len(curve.means) < 2 * BINS
    assert curve.means == sorted(curve.means)
    assert curve.means[0] < 50 and curve.means[-1] > 9_900
    assert sum(curve.means[:BINS]) / BINS == pytest.approx(32 * BINS / 2 - 0.5), "means of equal spans of 32"


def test_blocks_reach_from_the_lowest_to_the_highest():
    assert blocks([0, 1, 2, 3, 4, 5, 6, 7], 8) == ["▁▂▃▄▅▆▇█"]
    assert blocks([0, 23], 9, rows=3) == [" █", " █", "▁█"]
    assert blocks([8, 8, 0, 0], 2) == ["█▁"], "a column is a mean"
    assert blocks([1, 1], 5) == ["▄▄"] and blocks([], 5, rows=2) == ["", ""]
    assert {len(row) for row in blocks(list(range(1000)), 77, rows=3)} == {77}


def test_the_panel_says_what_was_logged():
    log = records(range(1, 41)) + records(range(41, 61), loss=0.25, loss_mask0=0.2, loss_mask1=0.3)
    log[-1] |= {"probe/knn": 0.42, "speed/mfu": 0.31}
    text = drawn("pretrain runs/x", figures_of(log), 100, checkpoint=50)
    for said in ("pretrain runs/x", "step 60 of 100 (60%)", "0:02:00 so far, 0:01:20 left", "(mask0 0.2, mask1 0.3)"):
        assert said in text
    for said in ("first 0.5, lowest 0.25", "probe knn 0.42", "12 clips/s", "31% MFU", "3 GiB", "checkpoint of step 50"):
        assert said in text
    assert text.count("█") > 40, "the curve"


def test_any_figure_may_be_missing():
    assert "no checkpoint yet" in drawn("x", Figures(), 10)
    assert set(colours([{"step": 0, "heldout/skill@1": 0.3}]).values()) == {"grey", "green"}
    assert "heldout skill@1 0.3" in drawn("x", figures_of([{"step": 0, "heldout/skill@1": 0.3}]), 10)
    undefined = {"heldout/skill@1": None}  # nothing moved
    assert line("x", figures_of([{"step": 2, "probe/knn": 0.5, **undefined}]), 10) == "x step 2/10  knn 0.5"
    assert line("x", figures_of([{"step": 2, "probe/knn": 0.5}, {"step": 3}]), 10) == "x step 3/10", "not measured anew"


def test_a_narrow_terminal_keeps_whole_lines():
    text = drawn("x", figures_of(records(range(1, 500))), 1000, width=60)
    assert {len(row) for row in text.splitlines()} == {60}


@pytest.mark.parametrize(
    ("name", "log", "colour"),
    [
        ("collapse", records(range(1, 400)), "green"),
        ("collapse", records([1]) + records(range(2, 400), feature_std=0.4), "yellow"),
        ("collapse", records([1]) + records(range(2, 400), feature_std=0.01), "red"),
        ("collapse", [{"step": 0, "health/rankme": 50.0}, {"step": 9, "health/rankme": 24.0}], "yellow"),
        ("collapse", [{"step": 0, "health/rankme": 50.0}, {"step": 9, "health/rankme": 4.0}], "red"),
        ("non-finite", records([1, 2]), "green"),
        ("non-finite", [*records([1], nonfinite=1.0, loss=NAN), *records(range(2, 400))], "yellow"),
        ("non-finite", [*records([1], nonfinite=1.0, loss=NAN), *records([2])], "red"),
        ("data", records([1, 2]), "green"),
        ("data", records(range(1, 9), **{"speed/data_wait": 0.3}), "yellow"),
        ("data", records(range(1, 9), **{"speed/data_wait": 0.6}), "red"),
    ],
)
def test_lights(name, log, colour):
    assert colours(log)[name] == colour


def test_a_fresh_alarm_is_red_and_an_old_spike_yellow():
    alarms = [{"step": 10, "kind": kind, "text": "…"} for kind in ("collapse", "spike", "nonfinite", "starved")]
    assert set(colours(records(range(1, 20)), alarms).values()) == {"red"}
    late = colours(records(range(1, 400)), alarms)
    assert late == {"collapse": "green", "spikes": "yellow", "non-finite": "green", "data": "green"}
    text = drawn("x", figures_of(records([11])), 20, alarms=alarms)
    assert "step 10 starved: …" in text and "collapse: …" not in text and "and 1 earlier alarm" in text


def test_a_figure_that_is_not_finite_changes_nothing():
    figures = figures_of([*records([1, 2]), *records([3], nonfinite=1.0, loss=NAN, grad_norm=float("inf"))])
    assert figures.step == 3 and figures.skipped == 1 and figures.skipped_at == 3
    assert figures.last["loss"] == 0.5 and figures.usual["grad_norm"] == 1.0 and figures.loss.means == [0.5, 0.5]


def test_durations():
    assert [duration(s) for s in (0, 61.4, 3661, 90000)] == ["0:00:00", "0:01:01", "1:01:01", "1 d 1:00:00"]


def test_a_run_is_followed_while_it_writes(run):
    watched = view.open_run(run)
    watched.look()
    assert watched.figures.step == 4 and watched.total == 10 and watched.name == f"pretrain {run}"
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 0.3}\n{"step": 6, "lo')
    watched.look()
    assert watched.figures.step == 5, "a line that is not finished waits"
    with (run / "log.jsonl").open("a") as file:
        file.write('ss": 0.2}\n')
    write(run / "alarms.jsonl", [{"step": 5, "kind": "spike", "text": "the loss jumped"}])
    watched.look()
    assert watched.figures.last["loss"] == 0.2 and watched.figures.loss.means == [0.5] * 4 + [0.3, 0.2]
    assert [alarm["step"] for alarm in watched.alarms] == [5]


def test_a_resumed_run_drops_what_it_will_do_again(run):
    watched = view.open_run(run)
    watched.look()
    with JsonLines(run / "log.jsonl", 3) as log:
        log.write({"step": 4, "loss": 0.1})
        watched.look()
    assert watched.figures.loss.means == [0.5, 0.5, 0.5, 0.1]


def test_watch_draws_once(run):
    result = CliRunner().invoke(app, ["watch", str(run), "--once"])
    assert result.exit_code == 0, result.output
    assert "step 4 of 10" in result.output and "checkpoint of step 3" in result.output and "running" in result.output
    write(run / "status.json", [{"state": "failed", "step": 4}])
    assert "failed" in CliRunner().invoke(app, ["watch", str(run), "--once"]).output


def test_watch_ends_with_the_run(run, monkeypatch):
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        state = "preempted" if len(looks) < 3 else "done"
        write(run / "status.json", [{"state": state, "step": 4}])

    monkeypatch.setattr(time, "sleep", sleep)
    view.watch(run)
    assert len(looks) == 3, "one that was preempted may go on"


def test_an_older_run_without_status_is_done_after_its_last_step(run):
    write(run / "log.jsonl", records([10]), "a")
    watched = view.open_run(run)
    watched.look()
    assert watched.state == "done"


@pytest.mark.parametrize("config", [None, "{", "[]", '{"loop": {}}'])
def test_what_is_no_run_is_one_line(tmp_path, config):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ConfigError, match="holds no training run") as caught:
        view.open_run(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_log_file_gets_plain_lines(run, monkeypatch):
    screen = Console(file=io.StringIO(), width=20)
    monkeypatch.setattr(view, "console", screen)
    with view.live("pretrain", run, 10, lead=True) as shown:
        shown.update()
    with view.live("pretrain", run, 10, lead=False) as shown:
        shown.update()
    text = screen.file.getvalue()
    expected = "pretrain step 4/10  loss 0.5  lr 0.001  grad_norm 1  12 clips/s  left 0:00:12\n"
    assert text == expected, "one line, without control codes, of the lead alone"


def test_a_terminal_gets_the_dashboard_and_is_left_alone_when_quiet(run, monkeypatch):
    screen = Console(file=io.StringIO(), width=80, force_terminal=True)
    monkeypatch.setattr(view, "console", screen)
    monkeypatch.setenv("JEPA_QUIET", "1")
    with view.live("pretrain", run, 10, lead=True) as shown:
        shown.update()
    assert screen.file.getvalue() == ""
    monkeypatch.delenv("JEPA_QUIET")
    with pytest.raises(LiveError), view.live("pretrain", run, 10, lead=True) as shown:
        write(run / "log.jsonl", records([5, 6]), "a")
        shown.update()
        raise LiveError("the run fails")
    text = screen.file.getvalue()
    assert "step 6 of 10" in text, "the last look is at the end"
    assert text.count("pretrain step") == 0 and text.endswith("\x1b[?25h"), "the cursor is back"


def test_a_file_that_cannot_be_read_does_not_stop_the_run(run, monkeypatch):
    watched = view.open_run(run)
    (run / "alarms.jsonl").mkdir()
    watched.look()
    assert watched.figures.step == 4
