"""Post-training end to end on tiny shards: resume, the random-init control, loading, and honest open-loop figures."""

import json
import runpy
from pathlib import Path

import pytest
import torch

from jepa import pretrain
from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError, load_config
from jepa.data.transforms import normalize
from jepa.encoded import Episodes, read_episodes, windows
from jepa.logs import read
from jepa.models.encoder import encode_frames
from jepa.models.image_encoder import ImageEncoder, build_image_encoder
from jepa.open_loop import open_loop
from jepa.posttrain import PosttrainConfig, run
from jepa.runs import load_encoder, load_world, save_encoder, weights_sha256
from jepa.worlds.base import Step, WorldModel

write_shards = runpy.run_path(str(Path(__file__).with_name("encode_fixtures.py")))["write_shards"]
SMALL = ["world.predictor.width=24", "world.predictor.depth=1", "world.predictor.heads=2", "batch_size=4"]


@pytest.fixture(scope="module")
def encoder_run(tmp_path_factory, moving_square, tiny_pretrain):
    out = tmp_path_factory.mktemp("encoder")
    values = [f"out={out}", f"data.shards={moving_square}", *tiny_pretrain]
    pretrain.run(load_config(pretrain.PretrainConfig, "pretrain", "debug", values))
    return out


def config_of(out, shards, encoder, *more):
    values = [f"out={out}", f"encoder={encoder}", f"shards={shards}", f"heldout={shards}", *SMALL, *more]
    return load_config(PosttrainConfig, "posttrain", "debug", values)


def test_an_interrupted_run_resumes_to_the_same_losses(tmp_path, moving_square, encoder_run, monkeypatch):
    run(config_of(tmp_path / "whole", moving_square, encoder_run))
    taken = []

    def interrupted(data, frames, batch, key, rank, world):
        taken.append(key)
        if len(taken) == 5:  # the checkpoint of step 3 is there
            raise KeyboardInterrupt
        return windows(data, frames, batch, key, rank, world)

    with monkeypatch.context() as patch:
        patch.setattr("jepa.posttrain.windows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config_of(tmp_path / "cut", moving_square, encoder_run))
    run(config_of(tmp_path / "cut", moving_square, encoder_run))
    cut, whole = (
        [{key: value for key, value in record.items() if not key.startswith("speed/")} for record in read(log)]
        for log in (tmp_path / "cut" / "log.jsonl", tmp_path / "whole" / "log.jsonl")
    )
    assert cut == whole
    assert len(whole) == 7


def test_a_loaded_world_predicts_what_was_trained(tmp_path, moving_square, encoder_run):
    run(config_of(tmp_path, moving_square, encoder_run))
    encoder, world = load_world(tmp_path)
    assert weights_sha256(encoder) == weights_sha256(load_encoder(encoder_run))
    frames = torch.randint(0, 256, (2, 1, 3, 32, 32), dtype=torch.uint8)
    state = world.observe(None, encode_frames(encoder, frames), torch.zeros(2, 1, 7))
    moved = world.features(world.step(state, torch.full((2, 7), 0.05)).state)
    assert moved.shape == (2, 16, 32) and not torch.equal(moved, world.features(state))


def test_the_control_has_the_same_shape_and_other_weights(tmp_path, moving_square, encoder_run):
    run(config_of(tmp_path / "ours", moving_square, encoder_run))
    run(config_of(tmp_path / "control", moving_square, encoder_run, "weights=random"))
    (ours, _), (control, _) = load_world(tmp_path / "ours"), load_world(tmp_path / "control")
    assert ours.config == control.config and weights_sha256(ours) != weights_sha256(control)


def test_raw_pixels_stand_in_for_an_encoder(tmp_path, moving_square, encoder_run):
    run(config_of(tmp_path, moving_square, encoder_run, "weights=pixels", "loop.steps=2"))
    encoder, world = load_world(tmp_path)
    assert not list(encoder.parameters()) and encoder.embed_dim == 3 * 8 * 8
    frames = torch.randint(0, 256, (2, 1, 3, 32, 32), dtype=torch.uint8)
    tokens = encoder(normalize(frames))
    torch.testing.assert_close(tokens[1, 6].view(3, 8, 8), normalize(frames)[1, 0, :, 8:16, 16:24])
    state = world.observe(None, encode_frames(encoder, frames), torch.zeros(2, 1, 7))
    assert world.features(state).shape == (2, 16, 192)
    with pytest.raises(ValueError, match="28×32 are not whole patches of 8"):
        encoder(torch.zeros(1, 1, 3, 28, 32))


def test_an_image_encoder_of_timm_serves_as_well(tmp_path, moving_square):
    name = "timm/vit_tiny_patch16_224"
    run(config_of(tmp_path, moving_square, name, "weights=random", "loop.steps=2"))
    encoder, world = load_world(tmp_path)
    assert isinstance(encoder, ImageEncoder) and weights_sha256(encoder) == weights_sha256(build_image_encoder(
        name.removeprefix("timm/"), "random", seed=0
    ))  # fmt: skip
    frames = torch.randint(0, 256, (1, 1, 3, 32, 32), dtype=torch.uint8)
    state = world.observe(None, encode_frames(encoder, frames), torch.zeros(1, 1, 7))
    assert world.features(state).shape == (1, 14 * 14, 192)


def test_mistakes_are_one_line(tmp_path, moving_square, encoder_run):
    with pytest.raises(CheckpointError, match="no run at"):
        run(config_of(tmp_path / "a", moving_square, tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="'noise' is not"):
        run(config_of(tmp_path / "b", moving_square, encoder_run, "weights=noise"))
    with pytest.raises(CheckpointError, match="not a post-training run"):
        load_world(encoder_run)


class Shift(WorldModel):
    """A world whose truth is known: every token moves by the first action; `use` is how much of it is believed."""

    def __init__(self, use: float) -> None:
        super().__init__()
        self.use = use

    def observe(self, state, tokens, proprio=None, actions=None):
        return {"x": tokens[:, -1]}

    def step(self, state, action, generator=None):
        return Step({"x": state["x"] + self.use * action[:, None, :1]})

    def features(self, state):
        return state["x"]


def shifting(rows=64, frames=9):
    rng = torch.Generator().manual_seed(0)
    actions = torch.randn(rows, frames - 1, 7, generator=rng)
    path = torch.cat((torch.zeros(rows, 1), actions[..., 0].cumsum(1)), dim=1)
    tokens = path.flatten()[:, None, None].expand(-1, 3, 2)
    part = {"lengths": torch.full((rows,), frames), "tokens": tokens, "actions": actions.flatten(0, 1)}
    return Episodes([part | {"states": torch.zeros(rows * frames, 7)}])


def test_open_loop_figures_of_worlds_whose_quality_is_known():
    blind = open_loop(Shift(0.0), shifting())
    assert blind == pytest.approx({"skill@1": 0, "shuffle@1": 1, "skill@4": 0, "shuffle@4": 1}, abs=1e-6)
    half = open_loop(Shift(0.5), shifting())
    assert half["skill@1"] == pytest.approx(0.5, abs=1e-4) and half["skill@4"] == pytest.approx(0.5, abs=1e-4)
    assert half["shuffle@1"] > 1.5
    assert open_loop(Shift(-1.0), shifting())["skill@1"] == pytest.approx(-1, abs=1e-4)


def test_open_loop_figures_of_episodes_of_any_length():
    """Two windows in 9 frames, one in 5 and in 8, none in 4: those that are too short change nothing."""
    long, short = shifting(), shifting(4, 4)
    alone = open_loop(Shift(0.5), long)
    assert open_loop(Shift(0.5), Episodes([*long.parts, *short.parts])) == alone
    mixed = Episodes([*shifting(20, 5).parts, *short.parts, *shifting(30, 8).parts, *shifting(20, 9).parts])
    figures = open_loop(Shift(0.5), mixed)
    assert figures["skill@1"] == pytest.approx(0.5, abs=1e-4) and figures["skill@4"] == pytest.approx(0.5, abs=1e-4)
    seen = []

    class Counting(Shift):
        def step(self, state, action, generator=None):
            seen.append(len(action))
            return super().step(state, action)

    open_loop(Counting(0.5), mixed)
    assert sum(seen) == 2 * 4 * 90  # true and shuffled actions, 4 steps, 90 windows


def test_a_world_keeps_the_encoder_it_was_trained_on(tmp_path, moving_square, encoder_run):
    run(config_of(tmp_path, moving_square, encoder_run))
    run(config_of(tmp_path, moving_square, encoder_run))  # a complete run is left as it is
    encoder, _ = load_world(tmp_path)
    encoder.norm.bias.add_(1)
    with pytest.raises(CheckpointError, match="an encoder with other weights"):
        save_encoder(tmp_path, encoder)


def test_windows_longer_than_the_episodes_are_refused(tmp_path, moving_square, encoder_run):
    with pytest.raises(ConfigError, match="windows of 13 frames are needed, and the longest episode has 12"):
        run(config_of(tmp_path, moving_square, encoder_run, "frames=13"))
    with pytest.raises(ConfigError, match="frames 1: must be at least 2"):
        run(config_of(tmp_path, moving_square, encoder_run, "frames=1"))


def test_episodes_of_any_length_and_a_lower_rate(tmp_path):
    """Nothing is cut, and what is too short is listed."""
    shards = write_shards(tmp_path, [9, 20, 3, 14])
    own = ("weights=pixels", "loop.steps=3", "frames=4")
    run(config_of(tmp_path / "all", shards, "debug", *own))
    assert [len(part["tokens"]) for part in read_episodes(tmp_path / "all", "train").parts] == [46]
    listed = json.loads((tmp_path / "all" / "too_short.json").read_text())
    assert listed == {"train": ["episode_000002"], "heldout": ["episode_000002"]}
    run(config_of(tmp_path / "fewer", shards, "debug", "weights=pixels", "loop.steps=3", "frames=3", "fps=5"))
    data = read_episodes(tmp_path / "fewer", "train")
    assert data.lengths.tolist() == [3, 7, 1, 5] and data.parts[0]["actions"].shape == (12, 7)
    assert len(read(tmp_path / "fewer" / "log.jsonl")) == 4
    with pytest.raises(ConfigError, match="windows of 5 frames are needed, and the longest episode has 4"):
        run(config_of(tmp_path / "none", shards, "debug", "weights=pixels", "fps=3"))


def test_the_control_needs_no_trained_run(tmp_path, moving_square):
    run(config_of(tmp_path, moving_square, "debug", "weights=random", "loop.steps=1"))
    assert load_world(tmp_path)[0].config.width == 128
