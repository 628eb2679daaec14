"""A world that reads where the camera stands: from the shards to training, check, offline planning and the robot."""

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from jepa import posttrain
from jepa.cli import app
from jepa.config import ConfigError, load_config
from jepa.data.index import Manifest
from jepa.data.loader import episodes
from jepa.planning.agent import Agent, eyes
from jepa.planning.bench import run as bench
from jepa.planning.bench.config import PlanConfig
from jepa.planning.check import run as check
from jepa.planning.check.measure import search_range, transitions
from jepa.planning.embodiment import Adapter, Embodiment
from jepa.planning.offline.measure import starts
from jepa.planning.planners import cem
from jepa.pose import integrate
from jepa.runs import Reading, load_world, reading

write_shards = runpy.run_path(str(Path(__file__).parents[1] / "encode_fixtures.py"))["write_shards"]
LIMIT = (0.1,) * 7


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run, train, heldout): a world with extrinsics of two steps, and its shards."""
    folder = tmp_path_factory.mktemp("extrinsics")
    for split in ("train", "heldout"):
        (folder / split).mkdir()
    shards = [write_shards(folder / "train", [24] * 6, extrinsics=True)]
    shards.append(write_shards(folder / "heldout", [21] * 5, extrinsics=True))
    given = [f"out={folder / 'world'}", "encoder=debug", "weights=pixels", f"shards={shards[0]}", "fps=4", "frames=3"]
    given += [f"heldout={shards[1]}", "world.predictor.extrinsics=true", "world.predictor.width=24", "loop.steps=2"]
    given += ["world.predictor.depth=1", "world.predictor.heads=2"]
    posttrain.run(load_config(posttrain.PosttrainConfig, "posttrain", "debug", given))
    return folder / "world", *shards


def test_it_is_trained_on_where_the_camera_stands(trained):
    run, train, _ = trained
    _, world = load_world(run)
    assert reading(run) == Reading(4.0, extrinsics=True) and world.extrinsics
    stood = np.concatenate([e.arrays["extrinsics"][::4] for e in episodes(Manifest.load(train), 16)])
    torch.testing.assert_close(world.state_mean[7:], torch.from_numpy(stood).mean(0), atol=1e-5, rtol=0)


def test_check_and_offline_read_it_too(trained):
    run, _, heldout = trained
    verb = CliRunner().invoke(app, ["plan", "check", str(run), str(heldout), "--each", "1"])
    assert verb.exit_code == 2 and "actions: at fps=4 changes of pose" in " ".join(verb.output.split())
    few = ["goals=[1]", "planner.samples=4", "planner.elites=2", "planner.iterations=1", "inverse_steps=2"]
    verb = CliRunner().invoke(app, ["plan", "offline", str(run), str(heldout), *few], catch_exceptions=False)
    assert verb.exit_code == 0, verb.output


def test_offline_starts_hold_the_rows_of_their_frames(trained):
    run, _, heldout = trained
    encoder, _ = load_world(run)
    found = starts(Manifest.load(heldout), encoder, reading(run), furthest=1, every=1, count=5)
    rows = [e.arrays for e in episodes(Manifest.load(heldout), 16)]
    wanted = np.concatenate([np.concatenate((a["states"], a["extrinsics"]), 1)[::4] for a in rows])
    assert np.array_equal(found.states, wanted)


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        (None, "mine says none; without it an agent refuses"),
        ((0.0, 0.08, 0.0, 0.0, 0.15, 0.0), ""),
        ((0.0, 0.0, 0.15, 0.0, 0.0, 0.0), "mine's is 0.15 m and 0.00 rad from the nearest camera"),
        ((0.05, 0.0, 0.0, 0.0, 0.0, 0.3), "mine's is 0.05 m and 0.30 rad from the nearest camera"),
    ],
)
def test_the_check_compares_the_robots_camera_with_the_recorded_ones(trained, monkeypatch, tmp_path, moved, words):
    """`moved`: a way in the base, m, and a turn in place, rad, from where a camera of the recordings stood."""
    run, _, heldout = trained
    (encoder, world), adapter = load_world(run), Adapter(Embodiment())
    given = (Manifest.load(heldout), encoder, reading(run), adapter, search_range(world, adapter))
    one = F.pad(transitions(*given, count=5, each=1).camera[3], (0, 1))
    stands = [] if moved is None else integrate(one, F.pad(torch.tensor(moved), (0, 1)))[:6].tolist()
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"name: mine\ncamera_pose: {stands}\n")
    monkeypatch.setattr(check, "search", lambda world, data, *given, **how: (data.change, torch.zeros(len(data.pose))))
    monkeypatch.setattr(check, "camera_shifts", lambda *given: [])
    monkeypatch.setattr(check, "landscapes", lambda *given: {})
    monkeypatch.setattr(check.check_page, "write", lambda *given: "no page")
    notes = check.run(run, heldout, embodiment=str(mine), out=tmp_path / "out", each=1)["notes"]
    found = [note for note in notes if note.startswith("camera_pose: ")]
    assert len(found) == bool(words) and words in "".join(found)


def test_a_benchmark_refuses_it_before_anything_runs(trained, tmp_path, monkeypatch):
    pytest.importorskip("gymnasium")
    monkeypatch.setattr(bench, "work", lambda *args: pytest.fail("too late"))
    config = load_config(PlanConfig, "plan", "debug", [f"world={trained[0]}", f"out={tmp_path / 'bench'}"])
    with pytest.raises(ConfigError, match=r"no environment .* trained without world\.predictor\.extrinsics"):
        bench.run(config)
    assert not (tmp_path / "bench").exists()


def test_an_agent_is_told_by_the_embodiment(trained):
    encoder, world = load_world(trained[0])
    size, embodiment = encoder.config.size, Embodiment("mine", action_limit=LIMIT)

    def act(*camera: float) -> tuple[np.ndarray, torch.Tensor]:
        adapter = Adapter(dataclasses.replace(embodiment, camera_pose=camera))
        planner = cem.build(cem.Config(samples=8, elites=2, iterations=2, horizon=1))
        agent = Agent(world, eyes(encoder), planner, adapter.bounds(), adapter=adapter)
        rng = np.random.default_rng(0)
        agent.aim_at(rng.integers(0, 256, (size, size, 3), np.uint8))
        return agent.act(rng.integers(0, 256, (size, size, 3), np.uint8), np.full(7, 0.2)), agent._state["pose"]

    with pytest.raises(ConfigError, match="embodiment mine: give camera_pose: the world model reads where"):
        act()
    here, state = act(0.5, -0.2, 0.9, -2.1, 0.1, 0.7)
    assert state[0, 0].tolist() == pytest.approx([*[0.2] * 7, 0.5, -0.2, 0.9, -2.1, 0.1, 0.7])
    assert not np.array_equal(here, act(-0.5, 0.2, 0.1, 2.1, 0.4, -0.7)[0])
