"""What of a picture a world sees: a 4:3 camera with a white left edge, from the features of training to the robot."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from jepa import posttrain, runs
from jepa.config import ConfigError, load_config
from jepa.data.index import Manifest
from jepa.encode import encode_shards
from jepa.encoded import read_episodes
from jepa.models.pixel_encoder import PixelEncoder, PixelEncoderConfig
from jepa.planning.agent import Agent, View, eyes
from jepa.planning.check.measure import transitions
from jepa.planning.embodiment import Adapter, Embodiment
from jepa.planning.offline.measure import starts
from jepa.planning.planners import cem
from jepa.runs import Reading, load_world, reading

write_shards = runpy.run_path(str(Path(__file__).parents[1] / "encode_fixtures.py"))["write_shards"]
CROPS = ("centre", "squeeze")


def picture(t: int) -> np.ndarray:
    """Frame t, which grows lighter, but for the edge."""
    frame = np.full((48, 64, 3), 10 * t, np.uint8)
    frame[:, :6] = 255  # the centred square begins at column 8
    return frame


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("edge"), [9] * 5, picture=picture)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shards):
    """Runs of one step on raw pixels, by crop."""
    folders = {crop: tmp_path_factory.mktemp(crop) for crop in CROPS}
    for crop, out in folders.items():
        given = [f"out={out}", "encoder=debug", "weights=pixels", f"shards={shards}", f"heldout={shards}", "frames=3"]
        given += [f"world.predictor.{key}" for key in ("width=24", "depth=1", "heads=2")] + ["loop.steps=1"]
        posttrain.run(load_config(posttrain.PosttrainConfig, "posttrain", "debug", [*given, f"crop={crop}"]))
    return folders


def edge_seen(tokens: torch.Tensor) -> bool:
    """Whether anything in raw pixels (..., N, D) is white."""
    return float(tokens.max()) > 1


@pytest.mark.parametrize("crop", CROPS)
def test_every_part_sees_what_training_saw(trained, shards, crop):
    run, manifest, wanted = trained[crop], Manifest.load(shards), crop == "squeeze"
    (encoder, world), read = load_world(run), reading(run)
    assert read == Reading(crop=crop)
    learned = read_episodes(run, "train").window(0, 0, 1).tokens[0, 0]
    assert edge_seen(learned) == wanted
    given = (manifest, encoder, read)
    assert edge_seen(transitions(*given, Adapter(Embodiment()), torch.ones(7), count=5, each=1).tokens) == wanted
    assert torch.equal(starts(*given, furthest=1, every=1, count=5).tokens[0], learned)
    camera = View(torch.from_numpy(picture(0)).permute(2, 0, 1)[None], torch.zeros(1, 7))
    sensed = eyes(encoder, read)(camera)[0, 0]
    torch.testing.assert_close(sensed, learned.float(), atol=0.2, rtol=0)  # video loses a little
    planner = cem.build(cem.Config(samples=4, elites=2, iterations=1, horizon=1))
    adapter = Adapter(Embodiment(action_limit=(0.1,) * 7))
    agent = Agent(world, eyes(encoder, read), planner, adapter.bounds(), adapter=adapter)
    agent.aim_at(picture(0))
    agent.act(picture(0), np.full(7, 0.2))
    state = world.observe(None, sensed[None, None], torch.full((1, 1, 7), 0.2))
    assert torch.equal(world.features(agent._state), world.features(state))


def test_features_of_another_crop_are_made_anew(trained, shards, monkeypatch):
    encoder, _ = load_world(trained["centre"])
    written, real = [], runs.write_cache
    monkeypatch.setattr(runs, "write_cache", lambda path, *rest: (written.append(path.name), real(path, *rest)))
    folder = trained["centre"] / "features" / "train"
    for crop, anew in (("centre", 0), ("squeeze", 1), ("squeeze", 1), ("centre", 2)):
        encode_shards(encoder, Manifest.load(shards), Reading(crop=crop), folder, Accelerator(cpu=True))
        assert len(written) == anew


def test_the_default_has_no_key_of_its_own(tmp_path, shards, monkeypatch):
    keys = []
    real = runs.write_cache
    monkeypatch.setattr(runs, "write_cache", lambda path, key, tensors: (keys.append(key), real(path, key, tensors)))
    encoder = PixelEncoder(PixelEncoderConfig(size=16, patch=8))
    for crop in CROPS:
        encode_shards(encoder, Manifest.load(shards), Reading(crop=crop), tmp_path, Accelerator(cpu=True))
    assert keys[1] == f"{keys[0]} squeeze" and keys[0].endswith(" 1024")


def test_another_crop_is_one_line():
    for wrong in (Reading, lambda crop: posttrain.PosttrainConfig(out="x", crop=crop)):
        with pytest.raises(ConfigError, match="crop 'whole' is not one of centre, squeeze"):
            wrong(crop="whole")
    assert str(Reading(4.0, crop="squeeze")) == "fps=4, crop=squeeze" and str(Reading()) == "every frame"
