"""The report of a small but real run: every number is the file's, nothing is fetched, missing parts are said."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import typer

from jepa import posttrain, pretrain, report_run
from jepa.cli import app
from jepa.config import load_config, to_dict
from jepa.demo import DemoConfig, claim, stages
from jepa.logs import read
from jepa.planning.bench import films
from jepa.planning.bench import run as benchmark
from jepa.planning.bench.results import summarise
from jepa.planning.mpc import Episode
from jepa.probes import plots
from jepa.probes import report as probe_report
from jepa.probes.predictions import Predictions
from jepa.probes.run import ProbeConfig
from jepa.report import write_report
from jepa.report_demo import shown
from jepa.report_files import NotRunError, last_third, series, stays_above_half
from jepa.report_pretrain import verdict

PARTS = ("shards", "pretrain", "probe", "posttrain", "posttrain_random", "plan", "demo.json", "stages.json")
MARKUP = re.compile(r"<[^>]+>")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, moving_square, tiny_pretrain):
    """A folder as `jepa demo` leaves it, with a trained encoder and two worlds, and its report."""
    run = tmp_path_factory.mktemp("demo")
    for split in ("train", "heldout"):
        shutil.copytree(moving_square, run / "shards" / split)
    shards = str(run / "shards" / "heldout")
    values = [f"out={run / 'pretrain'}", f"data.shards={shards}", f"heldout={shards}", *tiny_pretrain]
    pretrain.run(load_config(pretrain.PretrainConfig, "pretrain", "debug", values))
    for weights, folder in (("pretrained", "posttrain"), ("random", "posttrain_random")):
        values = [f"out={run / folder}", f"encoder={run / 'pretrain'}", f"weights={weights}", f"shards={shards}"]
        values += [f"heldout={shards}", "world.predictor.width=24", "world.predictor.depth=1", "batch_size=4"]
        posttrain.run(load_config(posttrain.PosttrainConfig, "posttrain", "debug", values))
    write_probe(run / "probe")
    write_plan(run / "plan")
    claim(run, "debug", load_config(DemoConfig, "demo", "debug"))
    (run / "stages.json").write_text(json.dumps({"collect": 12.0, "pretrain": 100.4, "report": 7.0}))
    write_report(run)
    return run


def write_probe(out) -> None:
    rng, measured = np.random.default_rng(0), []
    tasks = (("skill", "attentive", "tokens", "balanced_accuracy"), ("gripper", "regression", "pooled", "r2"))
    for task, kind, view, metric in tasks:
        for maker in ("pretrained", "random_init", "pixels", "chance"):
            for seed in range(3):
                if metric == "r2":
                    truth = torch.from_numpy(rng.normal(size=(40, 3)))
                    predicted = truth + 0.6 * torch.from_numpy(rng.normal(size=(40, 3)))
                else:
                    truth, predicted = (torch.from_numpy(rng.integers(0, 3, 40)) for _ in range(2))
                own = ("chance", "") if maker == "chance" else (kind, view)
                clips = torch.arange(40)
                found = (predicted, truth, clips // 4, clips % 4, None, ({},), 80)
                measured.append(Predictions(task, *own, maker, seed, *found))
    config = ProbeConfig(encoder="pretrain", shards_train="train", out=str(out))
    result = {"config": {"seed": config.seed, "seeds": config.seeds}, "episodes": {"train": 6, "test": 6}}
    result |= {"not_run": {"object": "n/a: shards carry no label 'object_pos'"}, "seconds": 3.0}
    result |= probe_report.summarise(measured, 0)
    out.mkdir()
    (out / "probe.json").write_text(json.dumps(result))
    plots.draw(result, out)


def write_plan(out) -> None:
    rng, jobs = np.random.default_rng(0), []
    for row, label in benchmark.rows.LABELS.items():
        curves = np.linspace(0.2, rng.uniform(0.01, 0.12, 10), 4).T.tolist()
        record = {"key": "k", "task": "reach", "row": row, "label": label, "seed": 0, "seconds": 0.1}
        record |= {"model_steps": 9, "films": ["films/reach-000_success.gif"] if row == "ours" else []}
        record["episodes"] = [
            {"goal": f"reach-{i:03d}", "success": c[-1] <= 0.05, "close": c[-1] <= 0.03, "distance": c, "actions": []}
            for i, c in enumerate(curves)
        ]
        jobs.append(record)
        out.mkdir(exist_ok=True)
        (out / f"reach_{row}.json").write_text(json.dumps(record))
    frames = rng.integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
    episode = Episode([0.2, 0.1, 0.01], np.zeros((2, 7)), 0.1, 9, frames)
    films.write(out / "films" / "reach-000_success.gif", episode, frames[-1])
    config = to_dict(load_config(benchmark.PlanConfig, "plan", "debug", ["world=w", f"out={out}"]))
    result = {"config": config, "tolerance": 0.05, "close": 0.03, "rows": summarise(jobs), "omitted": {}}
    (out / "results.json").write_text(json.dumps(result))


def text_of(run):
    return (run / "report.html").read_text()


def section(run, title):
    """The words of a section, without markup, with plain minus signs."""
    found = re.search(rf"<h2 [^>]*>{re.escape(title)}</h2>(.*?)(?=<h2 |</body>)", text_of(run), re.S)
    return MARKUP.sub(" ", found.group(1)).replace("−", "-")


def partial(whole, out, *parts):
    for part in parts:
        copy = shutil.copytree if (whole / part).is_dir() else shutil.copy
        copy(whole / part, out / part)
    return out


def test_a_whole_run_leaves_nothing_out(whole):
    assert "not run" not in text_of(whole).replace("not run: object: n/a", "")
    assert text_of(whole).count("data:image/gif;base64,") == 1
    # contact sheet 1 + 3, curves 2, masks 3, features 3, probes 2, world, energy, distances
    assert text_of(whole).count("data:image/png;base64,") == 17


def test_nothing_is_fetched_from_anywhere(whole):
    assert not re.search(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:|//|file:)""", text_of(whole), re.I)
    assert "@import" not in text_of(whole) and "url(" not in text_of(whole) and "<script" not in text_of(whole)
    assert all(s.startswith("data:image/") for s in re.findall(r'src="([^"]*)"', text_of(whole)))


def test_the_summary_says_what_the_files_say(whole):
    summary = section(whole, "Summary")
    log = read(whole / "pretrain" / "log.jsonl")
    assert f"{log[-1]['step']} steps to a loss of {log[-1]['loss']:.3f}" in summary
    assert f"initial {log[0]['health/std_over_time']:.4f}" in summary
    probe = json.loads((whole / "probe" / "probe.json").read_text())
    means = {(r["task"], r["row"]): r["mean"] for r in probe["rows"]}
    for task, title in (("skill", "skill"), ("gripper", "gripper position")):
        assert f"{title} {means[task, 'pretrained']:.3f} against {means[task, 'random_init']:.3f}" in summary
    for label, folder in (("ours", "posttrain"), ("random-init encoder", "posttrain_random")):
        end = read(whole / folder / "log.jsonl")[-1]
        figures = ", ".join(f"{k} {end[f'heldout/{k}']:.3f}" for k in ("skill@1", "skill@4", "shuffle@1", "shuffle@4"))
        assert f"{label}: {figures}" in summary
    rows = json.loads((whole / "plan" / "results.json").read_text())["rows"]
    assert len({r["success"]["rate"] for r in rows}) > 1
    for r in rows:
        s = r["success"]
        assert f"{r['label']} {s['rate']:.0%} [{s['low']:.0%}–{s['high']:.0%}]" in summary
    assert re.search(r"seconds\s+12\s+100\s+112", summary), "the report's own time does not count"


@pytest.mark.parametrize(
    ("missing", "sections"),
    [
        (("shards",), ()),  # the pre-training run names its own
        (("pretrain",), ("Pre-training", "Masks", "Features")),
        (("probe", "posttrain", "plan"), ("Probes", "World model", "Energy landscape", "Planning")),
    ],
)
def test_a_missing_part_is_said_and_the_rest_stays(whole, tmp_path, missing, sections):
    run = partial(whole, tmp_path, *(p for p in PARTS if p not in (*missing, "stages.json")))
    write_report(run)
    for title in ("Data", "Pre-training", "Masks", "Features", "World model", "Energy landscape", "Planning"):
        assert ("not run:" in section(run, title)) == (title in sections)
    assert "known only of jepa demo" in re.sub(r"\s+", " ", section(run, "Summary"))


def headings(run):
    return re.findall(r"<h2 [^>]*>(.*?)</h2>", text_of(run))


def test_a_lone_pretraining_run_is_reported(whole, tmp_path):
    run = tmp_path / "alone"
    shutil.copytree(whole / "pretrain", run)
    write_report(run)
    parts = ["Summary", "Pre-training", "Speed", "Trouble", "Data", "Masks", "Features", "Settings"]
    assert headings(run) == parts
    assert section(run, "Masks") == section(whole, "Masks")
    assert section(run, "Features") == section(whole, "Features")
    summary = section(run, "Summary")
    log = read(run / "log.jsonl")
    assert f"{log[-1]['step']} of {log[-1]['step']} steps, done." in summary
    assert f"RankMe {log[-1]['health/rankme']:.3g} (at first {log[0]['health/rankme']:.3g})" in summary
    assert "the same encoder before training" in section(run, "Pre-training")
    assert "&quot;spatial_scale&quot;" in text_of(run) or '"spatial_scale"' in text_of(run), "the whole config"


def test_a_lone_posttraining_run_is_reported(whole, tmp_path):
    run = tmp_path / "alone"
    shutil.copytree(whole / "posttrain", run)
    write_report(run)
    parts = ["Summary", "Post-training", "World model", "Speed", "Trouble", "Data", "Energy landscape", "Settings"]
    assert headings(run) == parts
    end = read(run / "log.jsonl")[-1]
    told = section(run, "World model").split()
    assert f"{end['heldout/skill@1']:.3f}" in told and f"{end['heldout/shuffle@4']:.3f}" in told
    assert "random-init" not in section(run, "World model") + section(run, "Energy landscape")
    assert "Lowest minus true" in section(run, "Energy landscape")
    assert "6 training videos" in section(run, "Data"), "those that its config names"


def test_the_trouble_and_the_speed_of_a_run_are_told(whole, tmp_path):
    shutil.copy(whole / "pretrain" / "config.json", tmp_path)
    bad = {"loss": float("nan"), "grad_norm": float("nan"), "nonfinite": 1.0}
    log = [{"step": s, "loss": 1 / s, "lr": 1e-3, "speed/step_s": 2.0, "speed/clips_s": 1000.0 + s} for s in (1, 2, 3)]
    write_lines(tmp_path / "log.jsonl", [*log, {"step": 4, **bad}])
    write_lines(tmp_path / "alarms.jsonl", [{"kind": "spike", "step": 3, "text": "the loss jumped to <7>"}])
    lost = [{"step": s, "shard": "000001.tar", "key": f"clip_{s}", "reason": "no frames"} for s in (1, 2)]
    write_lines(tmp_path / "skipped.jsonl", lost[1:])
    write_lines(tmp_path / "skipped_rank1.jsonl", lost[:1])
    (tmp_path / "status.json").write_text('{"state": "failed", "step": 4}')
    parts = (report_run.summary, report_run.trouble, report_run.speed)
    summary, trouble, speed = (" ".join(MARKUP.sub(" ", part(tmp_path)).split()) for part in parts)
    assert "4 of 6 steps, failed." in summary and "0:00:06 of training" in summary
    assert "1 alarm, 2 unreadable samples" in summary
    assert "3 spike the loss jumped to &lt;7&gt;" in trouble and "1 step not finite" in trouble
    assert "no frames 2" in trouble and trouble.index("clip_1") < trouble.index("clip_2")
    assert "clips a second 1,002 1,001 1,003 1,003" in speed


def test_a_run_that_has_only_begun_is_reported(whole, tmp_path):
    shutil.copy(whole / "pretrain" / "config.json", tmp_path)
    write_report(tmp_path)
    assert "there is no log in" in section(tmp_path, "Summary")
    for title in ("Pre-training", "Speed", "Trouble", "Features"):
        assert "not run:" in section(tmp_path, title)


def test_figures_that_are_not_finite_are_left_out():
    assert series([{"step": 1, "a": 2.0}, {"step": 2, "a": float("nan")}, {"step": 3}], "a") == ([1], [2.0])


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_damaged_results_are_said(whole, tmp_path):
    run = partial(whole, tmp_path, "plan", "pretrain")
    (run / "plan" / "results.json").write_text('{"rows": [')
    shutil.rmtree(run / "pretrain" / "checkpoints")
    write_report(run)
    assert "results.json is not valid JSON" in section(run, "Planning")
    assert "no checkpoint in" in section(run, "Features")


def test_an_empty_folder_is_refused_in_one_line(tmp_path):
    with pytest.raises(NotRunError, match="nothing to report in") as caught:
        write_report(tmp_path)
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_names_from_files_cannot_become_markup(whole, tmp_path):
    run = partial(whole, tmp_path, "plan")
    path = run / "plan" / "results.json"
    path.write_text(path.read_text().replace("random actions", "<script>x</script>"))
    write_report(run)
    assert "<script" not in text_of(run) and "&lt;script&gt;" in text_of(run)


def test_collapse_verdicts():
    assert stays_above_half([1.0, 0.51, 0.8]) and not stays_above_half([1.0, 0.5, 0.8])
    steps = list(range(0, 100, 10))  # the last third begins at 60
    assert last_third(steps, [9, 9, 9, 9, 9, 9, 1, 2, 3, 5]) == (1.5, 4.0)
    assert last_third([0, 60, 80, 90], [9, 1, 7, 2]) == (1, 2), "a middle value belongs to neither half"
    assert last_third([0], [9]) is None

    def log(rankme, spread):
        return [
            {"step": s, "health/rankme": r, "health/std_over_time": d}
            for s, r, d in zip(steps, rankme, spread, strict=True)
        ]

    rising, falling, wide, narrow = [*range(10)], [*range(10, 0, -1)], [1.0] * 10, [1.0] * 9 + [0.2]
    assert "No collapse by either" in verdict(log(rising, wide))
    assert "RankMe falls" in verdict(log(falling, wide)) and "Not both" in verdict(log(falling, wide))
    assert "does not stay above half" in verdict(log(rising, narrow)) and "Not both" in verdict(log(rising, narrow))


def test_provenance_names_the_preset_of_the_demo(whole, tmp_path):
    assert "--preset=debug runs these" in re.sub(r"\s+", " ", section(whole, "How each number was made"))
    run = partial(whole, tmp_path, "plan")
    write_report(run)
    assert "run one by one" in section(run, "How each number was made")


def test_shown_commands_are_those_of_the_demo(tmp_path):
    typed = [shown(c) for s in stages(tmp_path, DemoConfig(preset="debug")) for c in s.commands]
    assert typed[0].startswith(f"jepa collect {tmp_path}/episodes/train --episodes=")
    verbs = typer.main.get_command(app).commands
    for line in typed:
        assert line.startswith("jepa ") or " -m jepa " in line
        assert re.search(r"\bjepa (\w+)", line).group(1) in verbs
