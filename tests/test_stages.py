"""A stage begins from the weights it is told to, at other frames and sizes, or is refused in one line."""

import json
import shutil

import pytest
import torch

from jepa import checkpoint
from jepa.checkpoint import CheckpointError, read_model
from jepa.config import ConfigError, load_config
from jepa.logs import read
from jepa.pretrain import PretrainConfig, run

STILL = [
    "loop.optim.lr=0",
    "loop.optim.start_lr=0",
    "loop.optim.final_lr=0",
    "objective.ema_start=1",
    "objective.ema_end=1",
]
"""A run that learns nothing shows what it began with."""


@pytest.fixture(scope="module")
def configured(moving_square, tiny_pretrain):
    def configured(out, *more):
        values = [f"out={out}", f"data.shards={moving_square}", f"heldout={moving_square}", *tiny_pretrain, *more]
        return load_config(PretrainConfig, "pretrain", "debug", values)

    return configured


@pytest.fixture(scope="module")
def first(tmp_path_factory, configured):
    """A finished run of 6 steps, with checkpoints of steps 3 and 6."""
    out = tmp_path_factory.mktemp("stages") / "first"
    run(configured(out, "loop.optim.lr=1e-3"))
    return out


def weights(out):
    return read_model(out)[1]


def test_a_cool_down_has_all_weights_and_more_frames_and_pixels(tmp_path, configured, first):
    more = ("data.frames=8", "data.size=48", "encoder.size=48", "loop.steps=1")
    run(configured(tmp_path / "next", f"start_from={first}", *more, *STILL))
    assert all(torch.equal(value, weights(first)[name]) for name, value in weights(tmp_path / "next").items())
    assert any(name.startswith("target_encoder.") for name in weights(first))
    assert [r["step"] for r in read(tmp_path / "next" / "log.jsonl")] == [0, 1]


def test_a_checkpoint_can_be_named(tmp_path, configured, first):
    step = first / "checkpoints" / "step_00000003"
    run(configured(tmp_path / "next", f"start_from={step}", "loop.steps=1", *STILL))
    name = "encoder.patch_embed.proj.weight"
    assert not torch.equal(weights(tmp_path / "next")[name], weights(first)[name])


def test_the_optimiser_s_state_comes_along_if_asked(tmp_path, configured, first):
    steps = {}
    for start in ("true", "false"):
        run(configured(tmp_path / start, f"start_from={first}", f"start_optimizer={start}", "loop.steps=1"))
        folder = tmp_path / start / "checkpoints" / "step_00000001"
        steps[start] = checkpoint.reader(folder)("optimizer/encoder.norm.weight/step").item()
    assert steps == {"true": 7, "false": 1}


def test_a_stage_resumes_from_its_own_checkpoint(tmp_path, configured, first):
    copy = shutil.copytree(first, tmp_path / "copy")
    given = (f"start_from={copy}", "start_optimizer=true")
    run(configured(tmp_path / "whole", *given))
    run(configured(tmp_path / "cut", *given))
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step_00000006")
    shutil.rmtree(copy)  # no longer needed
    run(configured(tmp_path / "cut", *given))
    assert all(torch.equal(v, weights(tmp_path / "whole")[k]) for k, v in weights(tmp_path / "cut").items())


def test_what_cannot_be_begun_from_is_refused_and_leaves_nothing(tmp_path, configured, first):
    world = tmp_path / "world"
    world.mkdir()
    (world / "config.json").write_text(json.dumps({"encoder": "runs/x"}))
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(first / "config.json", empty)
    damaged = shutil.copytree(first, tmp_path / "damaged") / "checkpoints" / "step_00000006"
    (damaged / "model.safetensors").write_bytes(b"no weights")
    cases = [
        ([f"start_from={tmp_path / 'nowhere'}"], CheckpointError, r"no run at .*nowhere: config\.json is missing"),
        ([f"start_from={world}"], CheckpointError, "not a pre-training run"),
        ([f"start_from={empty}"], CheckpointError, "no checkpoint in"),
        ([f"start_from={damaged}"], CheckpointError, r"model\.safetensors does not match its size and sha256"),
        ([f"start_from={first / 'checkpoints' / 'step_00000004'}"], CheckpointError, r"state\.json is damaged or"),
        ([f"start_from={first}", "encoder.width=64"], CheckpointError, r"encoder\..* is \(.*32.*model wants \(.*64"),
        ([f"start_from={first}", "encoder.depth=2"], CheckpointError, r"encoder\.blocks\.1\..* is missing"),
        ([f"start_from={first}", "encoder.heads=4"], CheckpointError, r"encoder\.heads=2, this run has 4"),
        ([f"start_from={first}", "encoder.rope_layout=tiled"], CheckpointError, r"rope_layout=interleaved, this run"),
        (["start_optimizer=true"], ConfigError, "'start_from' must be given"),
    ]
    for values, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            run(configured(tmp_path / "next", *values))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "next").exists()


@pytest.mark.parametrize("name", ["vitl_256", "vith_256", "vitg_256", "vitg_384"])
def test_every_shipped_cool_down_begins_from_its_pre_training(name):
    config = load_config(PretrainConfig, "pretrain", f"{name}_64f_cooldown")
    before = load_config(PretrainConfig, "pretrain", config.start_from.removeprefix("runs/"))
    assert before.out == config.start_from and config.start_optimizer
    assert before.encoder.width == config.encoder.width and before.loop.optim.lr == config.loop.optim.lr
    assert (config.data.frames, config.data.size) == (64, int(name[-3:])) and config.encoder.size == config.data.size
