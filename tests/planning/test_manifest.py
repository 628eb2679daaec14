"""The shipped goals keep their rules when measured in the simulator; files that break them are refused."""

import json
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest

pytest.importorskip("gymnasium")  # not mujoco: importing it first would settle its OpenGL backend

from jepa.planning.envs.base import make
from jepa.planning.make_goals import ENVIRONMENT, build, write
from jepa.planning.manifest import (
    SHIPPED,
    Manifest,
    ManifestError,
    check,
    load,
    position,
    positions,
)


@pytest.fixture(scope="module")
def env():
    env = make(**ENVIRONMENT)
    yield env
    env.close()


@pytest.fixture(scope="module")
def shipped() -> Manifest:
    return load()


def raw() -> dict:
    return json.loads(files("jepa.configs").joinpath(SHIPPED).read_text())


def test_shipped_goals_measure_as_they_say(env, shipped):
    check(shipped, env)
    assert len(shipped.of("reach", 60)) == len(shipped.of("push", 60)) == 60
    assert (shipped.tolerance, shipped.close) == (0.05, 0.03)
    assert shipped.frozen == {"reach": [3, 4, 5, 6], "push": [3, 4, 5]}
    for goal in shipped.goals:
        least = {"reach": 0.12, "push": 0.10}[goal.task]
        start, end = positions(env, goal)
        assert np.linalg.norm(end - start) >= least > shipped.tolerance
        assert len(start) == {"reach": 3, "push": 2}[goal.task]


def test_pushes_go_every_way_for_any_number_of_goals(env, shipped):
    ways = [np.subtract(*positions(env, g)[::-1]) for g in shipped.of("push", 60)]
    angles = np.array([np.arctan2(w[1], w[0]) for w in ways])
    for count in (20, 50, 60):
        assert np.abs(np.exp(1j * angles[:count]).mean()) < 0.15
        gaps = np.diff(np.sort(np.append(angles[:count], angles[:count].min() + 2 * np.pi)))
        assert gaps.max() < np.pi / 4
    # The gripper starts anywhere, not behind the object.
    ahead = []
    for goal, way in zip(shipped.of("push", 60), ways, strict=True):
        env.set_state(goal.start)
        ahead.append((position(env, "reach")[:2] - position(env, "push")) @ way > 0)
    assert 0.25 < np.mean(ahead) < 0.75


def test_goal_images_show_what_they_should(env, shipped):
    for goal in shipped.goals[::7]:
        env.set_state(goal.start)
        before, fingers, look = env.object_pos(), env.ee_pose()[6], env.get_state()[-40:]
        env.set_state(goal.goal)
        assert np.array_equal(env.get_state()[-40:], look)  # the same scene
        if goal.task == "reach":
            np.testing.assert_allclose(env.object_pos(), before, atol=0.001)
            assert env.ee_pose()[6] == pytest.approx(fingers, abs=0.02)
        else:
            gap = position(env, "push") - env.ee_pose()[:2]
            way = position(env, "push") - before[:2]
            assert 0.02 < np.linalg.norm(gap) < 0.08 and gap @ way > 0  # right behind it
            assert env.ee_pose()[6] > 0.9  # with closed fingers
        pose, item = env.ee_pose(), env.object_pos()
        env.advance(np.zeros(7))
        np.testing.assert_allclose(env.ee_pose(), pose, atol=0.004)  # at rest
        np.testing.assert_allclose(env.object_pos(), item, atol=0.002)


def test_building_again_gives_the_shipped_goals(env, shipped, tmp_path):
    write(tmp_path / "again.json", build(env, seed=0, count=2))
    again = load(tmp_path / "again.json")
    assert [g.id for g in again.goals] == ["reach-000", "reach-001", "push-000", "push-001"]
    for goal, other in zip(again.goals, shipped.of("reach", 2) + shipped.of("push", 2), strict=True):
        np.testing.assert_allclose(np.stack(positions(env, goal)), np.stack(positions(env, other)), atol=1e-4)


def test_a_stored_state_is_exact(env, shipped):
    goal = shipped.of("push", 1)[0]
    env.set_state(goal.start)
    assert np.array_equal(env.get_state(), goal.start)


def test_a_distance_that_is_not_true_is_found(env, shipped):
    wrong = replace(shipped.goals[0], distance=shipped.goals[0].distance + 0.001)
    with pytest.raises(ManifestError, match="reach-000 is 0"):
        check(replace(shipped, goals=(wrong,)), env)


def test_pushes_in_one_direction_only_are_refused(env, shipped):
    ahead = [g for g in shipped.of("push", 60) if np.subtract(*positions(env, g))[1] < 0]
    with pytest.raises(ManifestError, match="all directions"):
        check(replace(shipped, goals=tuple(ahead)), env)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r["goals"][0].update(distance=0.119), "breaks"),
        (lambda r: r["goals"][0].update(task="fly"), "fly"),
        (lambda r: r["goals"].append(r["goals"][0]), "twice"),
        (lambda r: r["goals"][0].update(states="AAAA"), "not a goal file"),
        (lambda r: r.pop("tolerance"), "tolerance"),
        (lambda r: r.update(format="x"), "format 'x'"),
    ],
)
def test_spoilt_files_are_refused(tmp_path, spoil, message):
    contents = raw()
    spoil(contents)
    (tmp_path / "goals.json").write_text(json.dumps(contents))
    with pytest.raises(ManifestError, match=message):
        load(tmp_path / "goals.json")


def test_missing_file_and_too_many_goals(tmp_path, shipped):
    with pytest.raises(ManifestError, match=r"nowhere\.json"):
        load(tmp_path / "nowhere.json")
    with pytest.raises(ManifestError, match="61 goals of task 'push'"):
        shipped.of("push", 61)
