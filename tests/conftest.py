"""What every test shares: one thread (small tensors on busy cores), a tiny encoder, tiny shards of a moving square."""

import json
from collections import defaultdict

import av
import numpy as np
import pytest
import torch

from jepa.models.encoder import EncoderConfig

TINY_PRETRAIN = [
    *("encoder.size=32", "encoder.width=32", "encoder.depth=1", "encoder.heads=2", "predictor.width=24"),
    *("predictor.depth=1", "data.size=32", "batch_size=2", "heldout_clips=4", "loop.threads=1", "loop.log_every=1"),
]
"""Overrides that shrink the `debug` preset to a hundredth of a second per step."""


FAULTS = {"D": 16, "R": 7, "C": 8, "S": 4, "N": 4, "P": 1}
"""How many faults of each kind there are: of data, resume, checkpoints, processes, numbers, planning."""


def pytest_collection_modifyitems(items):
    for item in items:  # a property reaches the process that sums up
        item.user_properties += [("fault", name) for mark in item.iter_markers("fault") for name in mark.args]


def pytest_terminal_summary(terminalreporter, config):
    """With `-m "fault …"`: how many of the faults had the outcome that they should have, in all of their tests."""
    if "fault" not in config.option.markexpr:
        return
    outcomes = defaultdict(set)
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            for key, name in getattr(report, "user_properties", []):
                if key == "fault":
                    outcomes[name].add(outcome)
    known = [f"{kind}{number}" for kind, count in FAULTS.items() for number in range(1, count + 1)]
    good = [name for name in known if outcomes[name] == {"passed"}]
    bad = [name for name in known if name not in good]
    terminalreporter.write_line(f"{len(good)}/{len(known)} faults passed{'; not: ' if bad else ''}{', '.join(bad)}")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> EncoderConfig:
    return EncoderConfig(size=16, patch=4, tubelet=2, width=32, depth=2, heads=2)


@pytest.fixture(scope="session")
def tiny_pretrain() -> list[str]:
    return TINY_PRETRAIN


@pytest.fixture(scope="session")
def save_model():
    """Writes a model's weights as the checkpoint of step 1 of a run."""
    from jepa.checkpoint_writer import Writer
    from jepa.pieces import whole

    def save(run, model):
        with Writer(run) as writer:
            writer.save(1, {f"model/{name}": whole(value) for name, value in model.state_dict().items()}, {})

    return save


@pytest.fixture(scope="session")
def moving_square(tmp_path_factory):
    """Shards of six 12-frame videos of a square that moves as its actions say, with states and skill labels."""
    folder = tmp_path_factory.mktemp("square")
    rng = np.random.default_rng(0)
    for number in range(6):
        actions = np.zeros((11, 7), np.float32)
        actions[:, :2] = rng.uniform(-0.1, 0.1, (11, 2))
        states = np.zeros((12, 7), np.float32)
        states[0, :2] = 0.5
        for t in range(11):
            states[t + 1, :2] = np.clip(states[t, :2] + actions[t, :2], 0.2, 0.8)
        write_video(folder / f"episode_{number:06d}.mp4", states, rng.integers(0, 255, 3))
        skill, place = np.full(12, number % 2), np.repeat(states[:, :3], 1, axis=0)
        np.savez(folder / f"episode_{number:06d}.npz", actions=actions, states=states, skill=skill, object_pos=place)
    units = ["m", "m", "m", "rad", "rad", "rad", "closedness"]
    promise = {"format": "jepa-episodes-1", "fps": 4.0, "action_dim": 7, "state_dim": 7, "action_units": units}
    promise |= {"state_units": units, "labels": {"skill": ["even", "odd"]}, "extra": {"object_pos": ["m"] * 3}}
    (folder / "dataset.json").write_text(json.dumps(promise))
    from jepa.data.pack import pack

    pack("collected", folder, folder.with_name("square_shards"))
    return folder.with_name("square_shards")


def write_video(path, states, colour) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=4)
        stream.width = stream.height = 32
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "10", "threads": "1"}
        for state in states:
            image = np.full((32, 32, 3), 40, np.uint8)
            x, y = (32 * state[:2]).astype(int)
            image[y - 4 : y + 4, x - 4 : x + 4] = colour
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode(None))
