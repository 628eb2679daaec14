"""Probes during training: an encoder that sees the label scores, one that sees nothing is at chance, twice the same."""

import json

import av
import numpy as np
import pytest
import torch
from torch import nn

from jepa.data.config import DataConfig, DataSet
from jepa.data.pack import pack
from jepa.health import OnlineProbeConfig
from jepa.models.encoder import build_encoder
from jepa.probes.kinds.base import ProbeError
from jepa.probes.online import make, pooled

EPISODES, FRAMES = 20, 6
DATA = DataConfig(shards="elsewhere", frames=4, fps=0, size=16)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of grey videos: every other one is bright, and is labelled so by frame; all get darker with time."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for number in range(EPISODES):
        bright = number % 2
        with av.open(str(folder / f"episode_{number:06d}.mp4"), "w") as file:
            stream = file.add_stream("libx264", rate=4)
            stream.width, stream.height, stream.pix_fmt, stream.options = 16, 16, "yuv420p", {"crf": "10"}
            for t in range(FRAMES):
                level = 60 + 120 * bright - 8 * t + int(rng.integers(-10, 10))
                image = np.full((16, 16, 3), level, np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            file.mux(stream.encode(None))
        states = np.full((FRAMES, 7), number, np.float32)
        actions = np.zeros((FRAMES - 1, 7), np.float32)
        np.savez(folder / f"episode_{number:06d}.npz", actions=actions, states=states, skill=np.full(FRAMES, bright))
    units = ["m", "m", "m", "rad", "rad", "rad", "closedness"]
    promise = {"format": "jepa-episodes-1", "fps": 4.0, "action_dim": 7, "state_dim": 7, "action_units": units}
    promise |= {"state_units": units, "labels": {"skill": ["dark", "bright"]}, "extra": {}}
    (folder / "dataset.json").write_text(json.dumps(promise))
    return folder


@pytest.fixture(scope="module")
def shards(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "collected"
    pack("collected", videos, out)
    return out


class Stub(nn.Module):
    """Tokens (B, t·N, D) that are all what `see` makes of frames (B, T, 3, h, w): a vector (B, D)."""

    def __init__(self, see) -> None:
        super().__init__()
        self.scale, self.see = nn.Parameter(torch.ones(())), see

    def forward(self, frames):
        return self.scale * self.see(frames)[:, None].expand(-1, 8, -1)


def brightness(frames):
    return frames.mean((2, 3, 4))[:, :1] + torch.tensor([0.0, 1.0])


def slope(frames):
    levels = frames.mean((2, 3, 4))
    return (levels[:, -1:] - levels[:, :1]) + torch.tensor([0.0, 1.0])


def nothing(frames):
    return torch.ones(len(frames), 2)


def score(shards, cache, task, see, **config):
    probe = make(OnlineProbeConfig(shards=str(shards), task=task, **config), DATA, 0, cache)
    return probe(Stub(see))


@pytest.mark.parametrize(("task", "see", "blind"), [("skill", brightness, slope), ("arrow", slope, nothing)])
def test_an_encoder_scores_what_it_sees(task, see, blind, shards, tmp_path):
    seeing = score(shards, tmp_path, task, see)
    assert set(seeing) == {"probe/linear", "probe/knn"}
    assert min(seeing.values()) > 0.9, seeing
    assert min(score(shards, tmp_path, task, blind).values()) < 0.8


def test_the_class_of_a_whole_recording_can_be_asked(videos, tmp_path):
    lines = [f"{path.resolve()} {number % 2 + 3}" for number, path in enumerate(sorted(videos.glob("*.mp4")))]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    pack("csv", tmp_path / "list.csv", tmp_path / "shards")
    assert min(score(tmp_path / "shards", tmp_path / "cache", "label", brightness).values()) > 0.9


def test_values_are_asked_by_regression(shards, tmp_path):
    assert set(score(shards, tmp_path, "state", brightness)) == {"probe/regression"}


def test_same_seed_same_scores_and_the_encoder_is_left_as_it_was(shards, tmp_path, tiny, monkeypatch):
    config = OnlineProbeConfig(shards=str(shards), clips=24)
    encoder = build_encoder(tiny, 0)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    probe = make(config, DATA, 5, tmp_path)
    torch.manual_seed(0)
    first, state = probe(encoder), torch.get_rng_state()
    assert probe(encoder) == first and torch.equal(torch.get_rng_state(), state)
    assert encoder.training and all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    monkeypatch.setattr("jepa.data.loader.decode", None)  # a resumed run finds the clips
    assert make(config, DATA, 5, tmp_path)(encoder) == first


def test_clips_are_few_and_of_the_longest_that_are_trained_on(shards, tmp_path, monkeypatch):
    seen = []
    mix = DataConfig(mix=[DataSet("a", frames=2), DataSet("b", frames=6)], fps=0, size=8)
    monkeypatch.setattr("jepa.probes.online.pooled", lambda _, frames: seen.append(frames) or brightness(frames / 255))
    make(OnlineProbeConfig(shards=str(shards), clips=10, per_episode=1), mix, 0, tmp_path)(Stub(nothing))
    assert [tuple(frames.shape) for frames in seen] == [(8, 6, 3, 8, 8), (2, 6, 3, 8, 8)]


def test_pooling_in_parts_and_low_precision(tiny):
    encoder = build_encoder(tiny, 0)
    frames = torch.randint(0, 256, (11, 4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    parts = torch.cat([pooled(encoder, frame[None]) for frame in frames])
    torch.testing.assert_close(pooled(encoder, frames), parts)
    low = pooled(encoder.bfloat16(), frames)
    assert low.dtype == torch.float32 and not torch.equal(low, parts)
    torch.testing.assert_close(low, parts, atol=0.1, rtol=0.1)


def test_wrong_questions_are_one_line(shards, moving_square, tmp_path):
    for task, words in (
        ("colour", "probe.task 'colour' is not one of label, skill"),
        ("object", "carry no label 'object_pos'"),
        ("label", "task 'label': all clips of a side have one label"),
    ):
        with pytest.raises(ProbeError, match=words):
            score(shards, tmp_path, task, nothing)
    with pytest.raises(ProbeError, match="one label"):
        score(moving_square, tmp_path, "skill", nothing)  # one episode to test on
