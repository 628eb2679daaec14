"""The contract of `planning/envs/base.py`, over every environment that is installed here."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from jepa.config import plugin_names
from jepa.planning.collect import collect
from jepa.planning.envs.base import make
from jepa.planning.offscreen import SimulatorError


@pytest.fixture(scope="module", params=plugin_names("jepa.planning.envs"))
def env(request: pytest.FixtureRequest) -> Iterator[Any]:
    try:
        opened = make(request.param)
    except SimulatorError as error:
        pytest.skip(str(error))
    with contextlib.closing(opened):
        opened.name = request.param
        yield opened


def actions_of(env: Any, seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, len(env.action_limit))) * env.action_limit


def test_gymnasium_contract(env: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*maximum and minimum values are equal")  # a hand that cannot turn
        made = gymnasium.make(f"jepa/{type(env).__name__.removesuffix('Env')}-v0")
        check_env(made.unwrapped)
    made.close()


def test_widths_and_units_agree(env: Any) -> None:
    observation, _ = env.reset(seed=0)
    assert env.action_limit.shape == env.action_space.shape == (len(env.action_units),)
    assert env.ee_pose().shape == observation["state"].shape == (len(env.state_units),)
    low, high = env.workspace
    assert (low < high).all() and set(env.state_units[: len(low)]) == {"m"}
    assert ((low - 0.01 <= env.ee_pose()[: len(low)]) & (env.ee_pose()[: len(low)] <= high + 0.01)).all()
    assert env.object_pos().shape == (3,)
    for size in (32, 96):
        picture = env.render_at(size)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8 and picture.std() > 5


def test_actions_move_the_robot_as_they_say(env: Any) -> None:
    """Away from objects, one axis after the other; too much is clipped to the limit, and said so."""
    env.reset(seed=1)
    width = len(env.workspace[0])
    for axis in range(width):
        before = env.ee_pose()
        sign = 1.0 if before[axis] < env.workspace[:, axis].mean() else -1.0
        action = np.zeros(len(env.action_limit))
        action[axis] = 10 * sign
        commanded = env.advance(action)
        assert commanded.dtype == np.float32
        assert commanded[axis] == pytest.approx(sign * env.action_limit[axis], abs=1e-6)
        np.testing.assert_allclose(env.ee_pose()[:width] - before[:width], commanded[:width], atol=0.006)


def test_a_state_repeats_future_and_images(env: Any) -> None:
    """Also in contact, in another instance, and after anything else."""
    env.reset(seed=2)
    acting = env.behave(np.random.default_rng(0))
    for _ in range(10):
        env.advance(next(acting)[1])
    start = env.get_state()
    actions = [next(acting)[1] for _ in range(3)] + list(actions_of(env, 3, 5))

    def future(simulator: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
        images, states = [simulator.render_at(48)], [simulator.get_state()]
        for action in actions:
            simulator.advance(action)
            images.append(simulator.render_at(48))
            states.append(simulator.get_state())
        return images, states

    images, states = future(env)
    assert not np.array_equal(images[0], images[-1])
    env.reset(seed=9)
    with contextlib.closing(make(env.name)) as other:
        other.reset(seed=1)
        for simulator in (env, other):
            simulator.set_state(start)
            images_again, states_again = future(simulator)
            np.testing.assert_array_equal(np.stack(states_again), np.stack(states))
            np.testing.assert_array_equal(np.stack(images_again), np.stack(images))


def test_a_seed_gives_one_scene_whatever_came_before(env: Any) -> None:
    env.reset(seed=5)
    for action in actions_of(env, 0, 3):
        env.advance(action)
    used, _ = env.reset(seed=7)
    state = env.get_state()
    with contextlib.closing(make(env.name)) as fresh:
        new, _ = fresh.reset(seed=7)
        np.testing.assert_array_equal(fresh.get_state(), state)
    np.testing.assert_array_equal(new["image"], used["image"])
    env.reset(seed=8)
    assert not np.array_equal(env.get_state(), state)


def test_behaviour_moves_the_object_and_is_seen(env: Any) -> None:
    travel = []
    for seed in range(4):
        env.reset(seed=seed)
        acting = env.behave(np.random.default_rng(seed))
        start, before, shift = env.object_pos(), env.render_at(64).astype(int), 0.0
        for _ in range(24):
            label, action = next(acting)
            assert 0 <= label < len(env.skills)
            env.advance(action)
            shift = max(shift, float(np.linalg.norm(env.object_pos() - start)))
        travel.append(shift)
        assert (np.abs(env.render_at(64) - before).max(-1) > 20).sum() > 10
    assert np.median(travel) > 0.02


def test_bad_input_is_one_clear_line(env: Any) -> None:
    width = len(env.action_limit)
    with pytest.raises(SimulatorError, match=f"an action is {width} finite numbers"):
        env.advance(np.full(width, np.nan))
    with pytest.raises(SimulatorError, match="state of shape"):
        env.set_state(np.zeros(3))
    with pytest.raises(SimulatorError, match="no options"):
        env.reset(options={"color": "red"})
    with pytest.raises(SimulatorError, match="size ≥ 8"):
        make(env.name, size=2)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("pusht", "gym_pusht.envs.pusht"),
        ("fetch", "gymnasium_robotics"),
        ("metaworld", "metaworld"),
        ("ogbench", "ogbench"),
    ],
)
def test_a_missing_extra_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    for loaded in [m for m in sys.modules if m.startswith(package.split(".")[0])]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package.split(".")[0], None)
    with pytest.raises(SimulatorError, match=r"is not installed.*pip install 'openjepa"):
        make(name)


def test_pusht_is_recorded_with_its_own_widths(tmp_path: Path) -> None:
    pytest.importorskip("gym_pusht")
    summary = collect(tmp_path, episodes=2, steps=8, size=32, env="pusht", workers=1, progress=False)
    assert set(summary["label_frames"]) == {"random", "push"} and len(summary["actions"]) == 2
    from jepa.data.sources import collected

    spec = collected.spec(tmp_path)
    assert (spec.action_dim, spec.state_dim, spec.action_units) == (2, 2, ("m", "m"))
    episode = collected.load(tmp_path, next(collected.recordings(tmp_path)))
    assert episode.arrays["actions"].shape == (7, 2) and episode.arrays["states"].shape == (8, 2)
    moved = np.diff(episode.arrays["states"], axis=0)
    np.testing.assert_allclose(moved, episode.arrays["actions"], atol=0.006)
