"""The whole verb on a few small videos: every row measured, results written, the same twice."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from jepa import checkpoint
from jepa.config import ConfigError, load_config, to_dict
from jepa.data.index import Manifest
from jepa.models.encoder import build_encoder
from jepa.probes import jobs
from jepa.probes.clips import ClipSet, Episodes
from jepa.probes.kinds.base import ProbeError
from jepa.probes.run import ProbeConfig, run
from jepa.probes.tasks import TASKS, applicable, skill

SMALL = ["frames=4", "clips_test=3", "seeds=2", "workers=1", "attentive.epochs=1", "attentive.heads=2"]


class Pretrained(nn.Module):
    """What a pre-training run saves, as far as `load_encoder` is concerned."""

    def __init__(self, config) -> None:
        super().__init__()
        self.encoder, self.target_encoder = build_encoder(config, 0), build_encoder(config, 7)


@pytest.fixture
def encoder_run(tiny, tmp_path, save_model):
    model = Pretrained(tiny)
    checkpoint.claim_run(tmp_path / "pretrain", {"encoder": to_dict(tiny)})
    save_model(tmp_path / "pretrain", model)
    return tmp_path / "pretrain"


def config_of(encoder_run, shards, out, *more: str) -> ProbeConfig:
    given = [f"encoder={encoder_run}", f"shards_train={shards}", f"out={out}", *SMALL, *more]
    return load_config(ProbeConfig, "probe", "demo", given)


def test_every_row_is_measured_and_written(encoder_run, moving_square, tmp_path):
    result = run(config_of(encoder_run, moving_square, tmp_path / "out"))
    assert result == json.loads((tmp_path / "out" / "probe.json").read_text())
    rows = {(r["task"], r["probe"], r["view"], r["row"]): r for r in result["rows"]}
    asked = [n for n in TASKS if n in result["config"]["tasks"] and n not in result["not_run"]]
    expected = {
        (n, *probe, row) for n in asked for probe in TASKS[n].probes for row in ("pretrained", "random_init", "pixels")
    }
    assert set(rows) == expected | {(n, "chance", "", "chance") for n in asked}
    assert result["not_run"] == {"skill": "n/a: all clips have the same label"}  # one test episode, one skill
    assert all(
        len(r["values"]) == 2 and r["mean"] == pytest.approx(np.mean(r["values"]), abs=1e-6) for r in rows.values()
    )
    assert all((tmp_path / "out" / f"probe_{n}.png").stat().st_size > 5000 for n in asked)
    c = next(c for c in result["comparisons"] if (c["task"], c["view"]) == ("gripper", "flat"))
    ours, control = (rows["gripper", "regression", "flat", m]["values"] for m in ("pretrained", "random_init"))
    assert c["difference"] == pytest.approx(np.mean(ours) - np.mean(control), abs=1e-5)
    assert ours != control


def test_an_image_encoder_is_a_row_beside_the_others(encoder_run, moving_square, tmp_path, capsys):
    image = ["image_encoder=vit_tiny_patch16_224", "weights=random", "tasks=[gripper]", "seeds=1"]
    result = run(config_of(encoder_run, moving_square, tmp_path / "out", *image))
    rows = {(r["view"], r["row"]): r["mean"] for r in result["rows"]}
    assert len({rows["pooled", m] for m in ("image", "pretrained", "random_init", "pixels")}) == 4
    assert " image " in capsys.readouterr().out


def test_a_second_run_encodes_nothing_and_finds_the_same(encoder_run, moving_square, tmp_path, monkeypatch):
    first = run(config_of(encoder_run, moving_square, tmp_path / "out", "tasks=[arrow]"))
    monkeypatch.setattr(jobs.features, "encode", None)
    monkeypatch.setattr("jepa.data.loader.decode", None)
    second = run(config_of(encoder_run, moving_square, tmp_path / "out", "tasks=[arrow]"))
    assert first["rows"] == second["rows"] and first["comparisons"] == second["comparisons"]


def test_worker_processes_find_the_same(encoder_run, moving_square, tmp_path):
    alone = run(config_of(encoder_run, moving_square, tmp_path / "a", "tasks=[gripper]", "seeds=1"))
    spawned = run(config_of(encoder_run, moving_square, tmp_path / "b", "tasks=[gripper]", "seeds=1", "workers=2"))
    assert alone["rows"] == spawned["rows"]


def test_one_seed_has_no_interval(encoder_run, moving_square, tmp_path):
    result = run(config_of(encoder_run, moving_square, tmp_path / "out", "tasks=[gripper]", "seeds=1"))
    assert all(r["t95"] == [None, None] for r in result["rows"])
    assert {c["verdict"] for c in result["comparisons"]} == {"not separated"}


def test_skill_is_asked_of_clips_that_show_one_only():
    labels = torch.tensor([[1, 1, 1], [1, 1, 2], [2, 2, 2], [0, 2, 2]])
    values, rows = skill(ClipSet(torch.zeros(4, 3), torch.arange(4), torch.zeros(4), {"skill": labels}))
    assert values[rows].tolist() == [1, 2] and rows.tolist() == [True, False, True, False]


def test_backwards_clips_are_the_reversed_ones(encoder_run, moving_square, tmp_path):
    """The arrow of time reads reversed frames exactly where its label says so."""
    from jepa.probes.clips import ClipSpec, make_clips

    episodes = Episodes(Manifest.load(moving_square), tuple(range(6)))
    path = make_clips(tmp_path, episodes, ClipSpec(4, 0, 16, 3, 100), [0], lambda done: None)[0]
    job = jobs.Job("pixels", 0, str(encoder_run), {"train": path, "test": path}, ("arrow",), {}, tmp_path)
    side = jobs._side(job, path)
    seen, label = side.read(TASKS["arrow"], "tokens", "pixels")
    straight = jobs.features.pixel_tokens(side.clips.frames, 4, 2)
    turned = jobs.features.pixel_tokens(side.clips.frames.flip(1), 4, 2)
    assert 0 < label.sum() < len(label)
    for k, backwards in enumerate(label.bool()):
        assert torch.equal(seen.values[k], turned[k] if backwards else straight[k])


def test_tasks_that_the_shards_cannot_answer_are_named(moving_square):
    manifest = Manifest.load(moving_square)
    episodes = Episodes(manifest, (0, 1))
    assert applicable(("skill", "arrow"), episodes, episodes) == (["skill", "arrow"], {})
    with pytest.raises(ProbeError, match="no task 'colour'"):
        applicable(("colour",), episodes, episodes)


def test_wrong_input_is_one_line(encoder_run, moving_square, tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="no run at"):
        run(config_of(tmp_path / "nothing", moving_square, tmp_path / "out"))
    with pytest.raises(ValueError, match="heads 3 divide width 32"):
        run(config_of(encoder_run, moving_square, tmp_path / "out", "tasks=[arrow]", "attentive.heads=3"))
    with pytest.raises(ConfigError, match="depht"):
        config_of(encoder_run, moving_square, tmp_path / "out", "attentive.depht=2")


def test_pixels_are_narrowed_to_the_directions_in_which_they_vary():
    tokens = torch.randn(50, 4, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 9, 1, 1, 5, 1.0])
    axes = jobs.features.principal_axes(tokens, 2)
    torch.testing.assert_close(axes.T @ axes, torch.eye(2))
    assert axes[1, 0].abs() > 0.99 and axes[4, 1].abs() > 0.99
    assert jobs.features.principal_axes(tokens, 8).shape == (6, 6)


@pytest.mark.parametrize(("preset", "heads"), [("demo", 1), ("paper", 20), ("arrow", 1), ("debug", 1)])
def test_presets_load(preset, heads):
    config = load_config(ProbeConfig, "probe", preset, ["encoder=a", "shards_train=b"])
    assert len(config.attentive.lr) * len(config.attentive.weight_decay) == heads
