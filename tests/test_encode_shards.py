"""Encoding episodes: files hold every frame and outlast a kill, a lower rate has actions of its own."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from jepa import encode as encoding
from jepa import runs, training
from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError
from jepa.data.index import Manifest
from jepa.data.loader import episodes
from jepa.encode import encode_shards, trajectories
from jepa.encoded import read_episodes
from jepa.models.encoder import encode_frames
from jepa.models.pixel_encoder import PixelEncoder, PixelEncoderConfig
from jepa.pose import UNITS, integrate
from jepa.runs import Reading

write_shards = runpy.run_path(str(Path(__file__).with_name("encode_fixtures.py")))["write_shards"]
LENGTHS = [9, 2, 14, 6, 5, 1, 11]
ENCODER = PixelEncoder(PixelEncoderConfig(size=16, patch=8))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return Manifest.load(write_shards(tmp_path_factory.mktemp("uneven"), LENGTHS))


@pytest.fixture
def encode(manifest, tmp_path, monkeypatch):
    """Encodes into files of about ten frames; the split is `train` of the run `tmp_path`."""
    monkeypatch.setattr(encoding, "PART", 10)
    return lambda fps=0.0: encode_shards(
        ENCODER, manifest, Reading(fps), tmp_path / "features" / "train", Accelerator(cpu=True)
    )


def test_files_hold_every_frame_of_every_episode(encode, manifest, tmp_path):
    for data in (encode(), read_episodes(tmp_path, "train")):
        assert data.lengths.tolist() == LENGTHS and data.widths == (7, 7) and len(data.parts) > 3
        for i, episode in enumerate(episodes(manifest, 16)):
            own = data.window(i, 0, LENGTHS[i])
            assert torch.equal(own.tokens, encode_frames(ENCODER, episode.frames[None]).half())
            assert np.array_equal(own.actions[0], episode.arrays["actions"])
            assert np.array_equal(own.states[0], episode.arrays["states"])
    assert all(sum(part["lengths"]) <= 10 + max(LENGTHS) for part in data.parts)


def test_what_was_encoded_before_a_kill_stays(encode, tmp_path, monkeypatch):
    written, real = [], runs.write_cache

    def write(path, key, tensors, limit):
        if len(written) == limit:
            path.with_suffix(".partial").write_bytes(b"half of it")
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, key, tensors)

    monkeypatch.setattr(runs, "write_cache", lambda *given: write(*given, limit=2))
    with pytest.raises(KeyboardInterrupt):
        encode()
    with pytest.raises(CheckpointError, match="train is missing or not whole: run `jepa posttrain` again"):
        read_episodes(tmp_path, "train")
    monkeypatch.setattr(runs, "write_cache", lambda *given: write(*given, limit=None))
    whole = encode()
    assert len(set(written)) == len(written) == len(whole.parts)
    files = sorted((tmp_path / "features" / "train").iterdir())
    assert [file.name for file in files] == written
    files[1].write_bytes(files[1].read_bytes()[:-9])  # a crash of the machine
    encode()
    assert written[len(files) :] == [files[1].name]
    anew = encode(fps=15)  # the same frames, before there is a checkpoint, with actions computed from the poses
    assert torch.equal(anew.window(0, 0, 9).tokens, whole.window(0, 0, 9).tokens)
    assert not torch.equal(anew.window(0, 0, 9).actions, whole.window(0, 0, 9).actions)
    fewer = encode(fps=4)
    assert fewer.lengths.tolist() == [3, 1, 4, 2, 2, 1, 3]
    assert read_episodes(tmp_path, "train").lengths.tolist() == fewer.lengths.tolist()


def test_at_a_lower_rate_actions_are_the_changes_of_pose(manifest):
    for i, seen in enumerate(trajectories(manifest, 16, Reading(4.0))):
        frames, actions, states = seen.frames, seen.actions, seen.states
        (every,) = episodes(manifest, 16, [i])
        assert torch.equal(frames, every.frames[::4])  # 15 frames a second, at most 4: every fourth
        assert np.array_equal(states, every.arrays["states"][::4]) and len(actions) == len(frames) - 1
        reached = integrate(states[:-1].double(), actions.double())
        torch.testing.assert_close(reached.float(), states[1:], atol=1e-5, rtol=0)
    assert i == len(LENGTHS) - 1


def test_where_the_camera_stands_follows_the_state(manifest, tmp_path):
    (tmp_path / "seen").mkdir()
    seen = Manifest.load(write_shards(tmp_path / "seen", [9, 6], extrinsics=True))
    folder, reading = tmp_path / "features", Reading(4.0, extrinsics=True)
    data = encode_shards(ENCODER, seen, reading, folder, Accelerator(cpu=True))
    assert data.widths == (7, 13) and data.lengths.tolist() == [3, 2]
    for i, own in enumerate(trajectories(seen, 16, reading)):
        (every,) = episodes(seen, 16, [i])
        assert np.array_equal(own.camera, every.arrays["extrinsics"][::4])
        assert torch.equal(data.window(i, 0, len(own.frames)).states[0], torch.cat((own.states, own.camera), 1))
    assert encode_shards(ENCODER, seen, Reading(4.0), folder, Accelerator(cpu=True)).widths == (7, 7)
    (tmp_path / "mm").mkdir()
    other = Manifest.load(write_shards(tmp_path / "mm", [3], extrinsics=True, extrinsics_units=("mm",) * 6))
    for unfit in (manifest, other):
        with pytest.raises(ConfigError, match=r"no array extrinsics in m, m, m, rad, rad, rad, as `jepa pack droid`"):
            next(trajectories(unfit, 16, reading))


def test_actions_of_what_is_no_pose_cannot_be_made_anew(tmp_path):
    for name, units in (("joints", ("rad",) * 7), ("wide", ("m",) * 3 + ("rad",) * 5)):
        (tmp_path / name).mkdir()
        manifest = Manifest.load(write_shards(tmp_path / name, [3], units=units))
        with pytest.raises(ConfigError, match=rf"fps=4 needs states that are 7-D poses.*states have {len(units)} and"):
            next(trajectories(manifest, 16, Reading(4.0)))
        assert len(next(trajectories(manifest, 16, Reading())).actions) == 2
    assert UNITS[-1] == "closedness"


def test_a_process_ends_where_another_has_failed(monkeypatch):
    monkeypatch.setattr(training, "agree", lambda values, device: [1.0])
    with pytest.raises(ConfigError, match="another process cannot go on"):
        training.together(Accelerator(cpu=True), lambda: None)
