"""Recording: the folder's contract, the same bytes for any number of workers, resuming, refusing a mix."""

import io
import json
from pathlib import Path

import av
import numpy as np
import pytest

from jepa.config import ConfigError
from jepa.planning.collect import collect, record
from jepa.planning.coverage import coverage, describe
from jepa.planning.envs.base import make
from jepa.planning.episodes import CollectError, Recipe, encode_mp4
from jepa.planning.skills import CLEAR, FREE, SKILLS, behave, place, reach

SMALL = {"episodes": 3, "steps": 12, "size": 32, "seed": 5, "progress": False}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_folder_contract_and_workers(tmp_path: Path) -> None:
    summary = collect(tmp_path / "one", workers=1, **SMALL)
    collect(tmp_path / "two", workers=2, **SMALL)
    files = contents(tmp_path / "one")
    assert files == contents(tmp_path / "two")
    assert sorted(files) == [
        "coverage.json",
        "dataset.json",
        *(f"episode_{i:06d}.{kind}" for i in range(3) for kind in ("mp4", "npz")),
    ]
    header = json.loads(files["dataset.json"])
    assert header["format"] == "jepa-episodes-1" and header["fps"] == 4.0 and header["size"] == 32
    assert header["labels"] == {"skill": list(SKILLS)} and header["extra"] == {"object_pos": ["m"] * 3}
    assert summary["frames"] == 36 and sum(summary["label_frames"].values()) == 36
    shapes = {"actions": (11, 7), "states": (12, 7), "skill": (12,), "object_pos": (12, 3)}
    with np.load(tmp_path / "one" / "episode_000001.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].shape for name in arrays.files} == shapes
        kinds = {name: str(arrays[name].dtype) for name in arrays.files}
    assert kinds == {"actions": "float32", "states": "float32", "skill": "int64", "object_pos": "float32"}
    with av.open(str(tmp_path / "one" / "episode_000001.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        assert video.streams.video[0].average_rate == 4
        assert len(list(video.decode(video=0))) == 12


def test_second_run_fills_in_and_other_recipe_is_refused(tmp_path: Path) -> None:
    collect(tmp_path, workers=1, **SMALL)
    before = contents(tmp_path)
    (tmp_path / "episode_000001.mp4").unlink()
    kept = (tmp_path / "episode_000002.mp4").stat().st_mtime_ns
    assert collect(tmp_path, workers=1, **SMALL)["new_frames"] == 12
    assert contents(tmp_path) == before
    assert (tmp_path / "episode_000002.mp4").stat().st_mtime_ns == kept
    with pytest.raises(CollectError, match=r"recorded with seed 5 \(now 6\); use another folder"):
        collect(tmp_path, workers=1, **{**SMALL, "seed": 6})
    with pytest.raises(CollectError, match="episodes ≥ 1"):
        collect(tmp_path, workers=1, **{**SMALL, "episodes": 0})


def test_the_demo_s_episodes_are_those_of_the_recorded_runs() -> None:
    """Sums over the first episode of `jepa collect`; the demo's figures hang on them."""
    env = make("tabletop", size=16, variation=0.05, num_objects=1)
    episode = record(env, Recipe("tabletop", 16, 24, 0), 0)
    env.close()
    sums = [np.abs(a).sum() for a in (episode.actions, episode.states, episode.object_pos)]
    assert sums == pytest.approx([4.41065, 17.65622, 4.09919], abs=1e-3)
    assert "".join(map(str, episode.skill)) == "222222222333333333444444"


def test_mixtures_do_what_they_say(tmp_path: Path) -> None:
    """Shares pick skills, noise adds to them, both are part of what decides a folder's bytes."""
    shares = {"random": 1.0, "push": 3.0}
    summary = collect(tmp_path, workers=1, shares=shares, noise=(0.0, 0.03), **{**SMALL, "episodes": 8})
    counts = summary["label_frames"]
    assert counts["reach"] == counts["grasp"] == 0 and counts["push"] > counts["random"] > 0
    header = json.loads((tmp_path / "dataset.json").read_text())
    assert header["shares"] == shares and header["noise"] == [0.0, 0.03]
    for other in ({}, {"shares": {"push": 1}, "noise": (0.0, 0.03)}, {"shares": shares}):
        with pytest.raises(CollectError, match="recorded with"):
            collect(tmp_path, workers=1, **other, **SMALL)
    env = make("tabletop")
    jitter = []
    for noise in ((0.0,), (0.03,)):
        env.reset(seed=0)
        acting = behave(env, np.random.default_rng(0), {"reach": 1.0}, noise)
        jitter.append(np.stack([next(acting)[1][:3] for _ in range(8)]))
    env.close()
    assert 0.01 < np.abs(jitter[1][0] - jitter[0][0]).mean() < 0.1


def test_a_mixture_that_finds_nothing_to_do_explores() -> None:
    env = make("tabletop")
    env.reset(seed=0)
    env.place_object(0, np.array([0.15, 0.15]))  # out of the reach of a grasp
    label, action = next(behave(env, np.random.default_rng(0), {"grasp": 1.0}))
    env.close()
    assert label == 0 and np.abs(action[:3]).max() > 0


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"shares": {"fly": 1}}, "no behaviour 'fly' to mix; there are: random, reach, push, grasp"),
        ({"shares": {"push": -1}}, "shares of behaviours must be 0 or more"),
        ({"shares": {"push": 0}}, "one of them above"),
        ({"noise": (-0.1,)}, "noise levels must be 0 m or more"),
    ],
)
def test_a_bad_mixture_is_refused_before_anything_is_written(tmp_path: Path, mixture: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        collect(tmp_path / "out", workers=1, **mixture, **SMALL)
    assert not (tmp_path / "out").exists()


def test_coverage_counts_what_was_recorded(tmp_path: Path) -> None:
    """Against arrays written by hand: a hand that sweeps x, an object that is lifted, carried and let go."""
    states = np.zeros((6, 7), np.float32)
    states[:, 0] = [-0.1, -0.05, 0.0, 0.05, 0.1, 0.1]
    states[2:5, 6] = 0.5
    item = np.zeros((6, 3), np.float32)
    item[2:5] = states[2:5, :3] + [0, 0, 0.05]
    item[5] = [0.1, 0, 0]
    actions = np.zeros((5, 7), np.float32)
    actions[:, 0] = [0.06, 0.06, -0.06, 0.0, 0.0]
    np.savez(tmp_path / "a.npz", actions=actions, states=states, skill=np.array([0, 0, 1, 1, 1, 1]), object_pos=item)
    limit, box = np.array([0.06] * 3 + [0.2] * 3 + [1.0]), np.array([[-0.1, -0.1, 0.0], [0.1, 0.1, 0.2]])
    figures = coverage([tmp_path / "a.npz"], ("random", "grasp"), limit, box)
    assert figures["label_frames"] == {"random": 2, "grasp": 4}
    assert (figures["contact"], figures["grasp"], figures["lifted"], figures["idle"]) == (0.8, 0.5, 1.0, 0.4)
    assert figures["object_shift_m"] == 0.1 and figures["object_travel_m"] == pytest.approx(0.2, abs=1e-3)
    assert figures["robot_cells"] == 0.005  # of 1000 cells
    assert np.sum(figures["object_map"]) == 6 and figures["object_map"][5][5] == 3
    assert figures["actions"][0] == [1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2]
    assert "held in 50% of frames" in describe(figures)
    assert np.shape(figures["actions"]) == (7, 11)


def test_video_shows_the_frames() -> None:
    rng = np.random.default_rng(0)
    frames = np.kron(rng.integers(40, 215, (6, 4, 4, 1)), np.ones((1, 8, 8, 3))).astype(np.uint8)
    with av.open(io.BytesIO(encode_mp4(frames, 4.0))) as video:
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in video.decode(video=0)])
    assert np.abs(decoded.astype(int) - frames).mean() < 4


def test_actions_lead_from_frame_to_frame() -> None:
    env = make("tabletop", size=16)
    recipe = Recipe("tabletop", 16, 32, 0)
    errors, labels = [], set()
    for index in range(6):
        episode = record(env, recipe, index)
        moved = np.diff(episode.states, axis=0) - episode.actions
        errors.append(np.abs(moved[:, :3]).max(1))
        labels |= set(episode.skill.tolist())
    env.close()
    assert np.median(np.concatenate(errors)) < 1e-3  # only contact makes a difference
    assert np.percentile(np.concatenate(errors), 90) < 5e-3
    assert len(labels) >= 4


def test_behaviour_touches_the_object_and_repeats() -> None:
    env = make("tabletop")
    travel, lifted, actions = [], 0, []
    for seed in (*range(15), 0):
        env.reset(seed=seed)
        acting = behave(env, np.random.default_rng(seed))
        rest, path, taken = env.object_pos(), [env.object_pos()], []
        for _ in range(31):
            taken.append(env.advance(next(acting)[1]))
            path.append(env.object_pos())
        travel.append(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
        lifted += max(p[2] for p in path) > rest[2] + 0.04
        actions.append(np.stack(taken))
    assert np.mean(travel) > 0.15
    assert lifted >= 3
    np.testing.assert_array_equal(actions[0], actions[-1])


def test_a_reach_ends_in_the_air_clear_of_the_object_and_a_place_at_the_far_side() -> None:
    env = make("tabletop")
    for seed in range(4):
        for skill in (reach, place):
            rng = np.random.default_rng(seed)
            env.reset(seed=seed)
            for action in skill(env, rng):
                env.advance(action)
            hand = env.ee_pose()
            if skill is reach:
                assert hand[2] > CLEAR - 0.02
                assert np.linalg.norm(hand[:2] - env.object_pos()[:2]) > FREE - 0.03
            else:
                assert hand[1] > 0.03 and hand[6] < 0.1
    env.close()
