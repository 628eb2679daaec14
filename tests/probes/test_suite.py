"""The suite on tiny videos: all checkpoints in one scorecard and page, what they share made once, curves over steps."""

import io
import json
import re

import pytest
from rich.console import Console
from torch import nn

from jepa import checkpoint
from jepa.checkpoint_writer import Writer
from jepa.config import ConfigError, load_config, to_dict
from jepa.data.config import DataConfig
from jepa.models.encoder import build_encoder
from jepa.pieces import whole
from jepa.probes.config import ProbeConfig
from jepa.probes.kinds.base import ProbeError
from jepa.probes.suite import report as suite_report
from jepa.probes.suite.run import as_trained, names, run

SMALL = ["clips_test=3", "workers=1", "tasks=[arrow,direction,skill,gripper]"]
HEADS = [f"{kind}.{v}" for kind in ("attentive", "attentive_regression") for v in ("epochs=1", "heads=2", "lr=[1e-3]")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on 4 frames with the checkpoints of steps 10 and 20."""
    from jepa.models.encoder import EncoderConfig

    tiny = EncoderConfig(size=16, patch=4, tubelet=2, width=32, depth=2, heads=2)
    folder = tmp_path_factory.mktemp("suite") / "pretrain"
    data = to_dict(DataConfig(shards="x", frames=4, fps=4.0, size=16))
    checkpoint.claim_run(folder, {"encoder": to_dict(tiny), "data": data})
    for step in (10, 20):
        model = nn.ModuleDict({"target_encoder": build_encoder(tiny, step)})
        with Writer(folder) as writer:
            writer.save(step, {f"model/{k}": whole(v) for k, v in model.state_dict().items()}, {})
    return folder


def config_of(encoder, shards, out, *more: str) -> ProbeConfig:
    given = [f"encoder={encoder}", f"shards_train={shards}", f"out={out}", *SMALL, *HEADS, *more]
    return load_config(ProbeConfig, "probe", "suite", given)


@pytest.fixture(scope="module")
def found(trained, moving_square, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    paths = [str(trained / "checkpoints" / f"step_{step:08d}") for step in (10, 20)]
    return run(paths, config_of("nothing", moving_square, out)), out


def test_every_checkpoint_is_in_the_scorecard(found):
    result, out = found
    assert result == json.loads((out / "suite.json").read_text())
    assert list(result["tables"]) == ["pretrain-10", "pretrain-20"]
    assert list(result["measures"]) == ["random init", "pretrain-10", "pretrain-20"]
    head, rows = suite_report.scorecard(result)
    assert head == ["task", "probe", "chance", "pixels", "random init", "pretrain-10", "pretrain-20"]
    assert {row[0] for row in rows} == {
        "gripper position, R²",
        "arrow of time, accuracy",
        "direction of motion, accuracy",
    }
    line = next(row for row in rows if row[1] == "regression pooled")
    asked = ("regression", "pooled", "pretrained")
    for name, cell in zip(("pretrain-10", "pretrain-20"), line[-2:], strict=True):
        row = next(r for r in result["tables"][name]["rows"] if (r["probe"], r["view"], r["row"]) == asked)
        assert re.sub("[ ▲▼]", "", cell).replace("−", "-") == f"{row['mean']:.3f}"
    assert line[-1] != line[-2]
    assert result["tables"]["pretrain-10"]["config"]["fps"] == 4.0  # as trained
    assert result["tables"]["pretrain-10"]["not_run"] == {"skill": "n/a: all clips have the same label"}


def test_what_no_checkpoint_changes_is_made_once(found):
    _, out = found
    assert len(list((out / "jobs").glob("*.safetensors"))) == 3 * (3 + 2)  # tasks; chance, pixels, random; two encoders
    assert len(list((out / "cache").glob("clips-*.safetensors"))) == 2


def test_the_page_holds_pictures_and_curves(found):
    _, out = found
    text = (out / "suite.html").read_text()
    headings = ("Scorecard", "Over training", "Nearest neighbours", "Principal components", "Attention of the probe")
    assert [re.sub("<.*?>", "", h) for h in re.findall("<h2.*?</h2>", text)] == list(headings)
    assert "not run: n/a: " not in text and "not run: skill: n/a" in text
    assert text.count("data:image/png") > 20 and "src=" in text and 'src="http' not in text
    assert "taken for" in text
    pictures = sorted(out.glob("curves_*.png"))
    assert len(pictures) == 3 and all(p.stat().st_size > 5000 for p in pictures)  # 3 tasks and 6 measures


def test_curves_run_over_the_steps_of_one_run(found):
    result, _ = found
    panels = {p.title: p for p in suite_report._panels(result, result["checkpoints"][0]["run"])}
    assert list(panels["arrow of time"].lines[0].x) == [10, 20]
    assert panels["RankMe"].lines[0].y == [result["measures"][f"pretrain-{step}"]["rankme"] for step in (10, 20)]
    assert panels["RankMe"].levels == {"random init": result["measures"]["random init"]["rankme"]}


def test_the_scorecard_is_printed(found):
    console = Console(width=160, record=True, file=io.StringIO())
    suite_report.show(found[0], console)
    text = console.export_text()
    assert "pretrain-20" in text and "skill: n/a" in text
    assert len(re.findall(r"LiDAR( +\d+\.\d of \d+){3}", text)) == 1


def test_a_rank_stands_beside_the_most_that_it_can_be_for_this_encoder(found):
    measured = {name: dict(values) for name, values in found[0]["measures"].items()}
    measured["pretrain-20"] |= {"rankme": 3.25, "rank": 384}  # a wider encoder than the first
    head, rows = suite_report.measures({"measures": measured})
    cells = dict(zip(head, next(row for row in rows if row[0] == "RankMe"), strict=True))
    assert cells["pretrain-20"] == "3.2 of 384" and cells["pretrain-10"].endswith(" of 2")


def test_a_probe_is_marked_where_it_is_beyond_random_init(found):
    table = found[0]["tables"]["pretrain-10"]
    key = (table["comparisons"][0]["task"], table["comparisons"][0]["probe"], table["comparisons"][0]["view"])
    for bounds, mark in (([0.1, 0.2], " ▲"), ([-0.2, -0.1], " ▼"), ([-0.1, 0.1], ""), ([None, None], "")):
        changed = {**table, "comparisons": [{**table["comparisons"][0], "bootstrap95": bounds}]}
        assert suite_report._told(changed, key).lstrip("−0123456789.") == mark


def test_checkpoints_have_names_of_their_own(tmp_path):
    step = "checkpoints/step_00000010"
    found = names(["a/run", f"a/run/{step}", "b/run", "facebook/vjepa2-vitl-fpc64-256"])
    assert [c.name for c in found] == ["run", "run-10", "run~2", "vjepa2-vitl-fpc64-256"]
    assert [(c.run, c.step) for c in found[:2]] == [("a/run", None), ("a/run", 10)]
    with pytest.raises(ConfigError, match="a/run is given twice"):
        names(["a/run", "a/run"])
    with pytest.raises(ConfigError, match="give a checkpoint"):
        names([])


def test_frames_are_those_of_the_training_or_must_be_given(trained, moving_square, tmp_path):
    config = config_of(trained / "checkpoints" / "step_00000010", moving_square, tmp_path)
    assert (as_trained(config).frames, as_trained(config).fps) == (4, 4.0)
    other = config_of("facebook/vjepa2-vitl-fpc64-256", moving_square, tmp_path)
    with pytest.raises(ConfigError, match=r"does not say on how many frames it was trained; give frames=… and fps=…"):
        as_trained(other)
    given = config_of("facebook/vjepa2-vitl-fpc64-256", moving_square, tmp_path, "frames=8", "fps=2")
    assert as_trained(given) is given


def test_wrong_input_is_one_line(trained, moving_square, tmp_path):
    with pytest.raises(ProbeError, match="no task 'colour'"):
        run([str(trained)], config_of(trained, moving_square, tmp_path / "a", "tasks=[colour]"))
    with pytest.raises(checkpoint.CheckpointError, match="there are: 10, 20"):
        run([str(trained / "checkpoints" / "step_00000030")], config_of("x", moving_square, tmp_path / "b"))
