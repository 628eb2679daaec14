"""Arms of other packages in the tabletop's frame: they do the tabletop's tasks, are recorded, and make goals."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa.data.sources import collected
from jepa.planning import make_goals
from jepa.planning.collect import collect
from jepa.planning.envs.base import make
from jepa.planning.experts import play
from jepa.planning.make_goals import write
from jepa.planning.manifest import check, load
from jepa.planning.offscreen import SimulatorError
from jepa.planning.tasks import TASKS, centres

TURNS = {"fetch": 0.0, "metaworld": 0.0, "ogbench": 0.2}  # rad, per step about z


@contextlib.contextmanager
def opened(name: str, **options: Any) -> Iterator[Any]:
    try:
        env = make(name, **options)
    except SimulatorError as error:
        pytest.skip(str(error))
    with contextlib.closing(env):
        yield env


@pytest.fixture(scope="module", params=sorted(TURNS))
def env(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param) as arm:
        yield arm


def test_the_expert_picks_and_places(env: Any) -> None:
    """So the frame, the fingers' strength and the heights of the skills fit."""
    task, aim = TASKS["pick_and_place"], np.array([-0.05, 0.08])
    env.reset(seed=3)
    rest = centres(env)
    assert rest[0, 2] == pytest.approx(env._scene.half, abs=0.001)  # it lies on z = 0
    done = play(env, task.expert, 3, aim)
    lifted = dict(done.stages)["carried"]
    np.testing.assert_allclose(env.object_pos()[:2], aim, atol=0.02)
    assert task.holds(env, rest) and len(done.actions) <= task.decisions
    env.set_state(lifted)
    assert env.object_pos()[2] > 0.06 and TASKS["grasp"].holds(env, rest)


def test_the_hand_turns_about_z_where_it_can(env: Any) -> None:
    env.reset(seed=0)
    turn = TURNS[env.name]
    assert env.action_limit[3:6] == pytest.approx([0, 0, turn])
    commanded = env.advance(np.array([0, 0, 0, 0.5, 0.5, 0.5, 0]))
    assert commanded[3:6] == pytest.approx([0, 0, turn])
    assert env.ee_pose()[3:6] == pytest.approx([0, 0, turn], abs=0.05)
    for _ in range(6):
        env.advance(np.array([0, 0, 0, 0, 0, 0.5, 0]))
    assert env.ee_pose()[5] == pytest.approx(4 * turn, abs=0.05)


def test_x_is_to_the_right_and_y_away(env: Any) -> None:
    if env.name == "fetch":
        pytest.skip("its cube is as dark as its arm")
    places, spots = [], []
    for seed in range(5):
        red, green, blue = env.reset(seed=seed)[0]["image"].astype(int).transpose(2, 0, 1)
        redness = red - np.maximum(green, blue)
        rows, columns = np.nonzero(redness > 0.7 * redness.max())  # Meta-World's arm is red too, but darker
        places.append([columns.mean(), -rows.mean()])
        spots.append(env.object_pos()[:2])
    for pixels, metres in zip(np.transpose(places), np.transpose(spots), strict=True):
        assert np.corrcoef(pixels, metres)[0, 1] > 0.9


def test_goals_are_made_and_measured(env: Any, tmp_path: Path) -> None:
    goals = make_goals.build(env, 0, {"reach": 1, "grasp": 1}, {"name": env.name})
    write(tmp_path / "goals.json", goals)
    check(load(tmp_path / "goals.json"), env)


def test_it_is_recorded(env: Any, tmp_path: Path) -> None:
    summary = collect(tmp_path, episodes=1, steps=5, size=32, env=env.name, workers=1, progress=False)
    assert summary["frames"] == 5
    spec = collected.spec(tmp_path)
    assert (spec.action_dim, spec.state_dim) == (7, 7) and spec.action_units == env.action_units
    arrays = collected.load(tmp_path, next(collected.recordings(tmp_path))).arrays
    assert np.abs(arrays["actions"]).max() > 0.01
    np.testing.assert_allclose(np.diff(arrays["states"], axis=0)[:, :3], arrays["actions"][:, :3], atol=0.015)


def test_ogbench_has_one_or_two_cubes() -> None:
    with opened("ogbench", num_objects=2) as env:
        env.reset(seed=1)
        assert np.linalg.norm(env.object_pos(0) - env.object_pos(1)) > 0.1
        with pytest.raises(SimulatorError, match="num_objects 1 or 2, got 3"):
            make("ogbench", num_objects=3)
