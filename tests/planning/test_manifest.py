"""The shipped goals keep their rules when measured in the simulator; files that break them are refused."""

import contextlib
import itertools
import json
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest

pytest.importorskip("gymnasium")  # not mujoco: importing it first would settle its OpenGL backend

from jepa.planning.envs.base import make
from jepa.planning.make_goals import ENVIRONMENT, build, write
from jepa.planning.make_task_goals import FILES
from jepa.planning.make_task_goals import build as build_tasks
from jepa.planning.manifest import (
    SHIPPED,
    Manifest,
    ManifestError,
    check,
    load,
    outcome,
    position,
    positions,
)
from jepa.planning.tasks import TASKS

STAGES = {
    "reach": ("reached",),
    "push": ("behind", "halfway", "pushed"),
    "grasp": ("above", "grasped", "lifted"),
    "pick_and_place": ("above", "grasped", "lifted", "carried", "placed"),
    "push_beside": ("behind", "halfway", "pushed"),
    "push_t": ("pushed",),
}


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
        (lambda r: r["goals"][0].update(distance=0.119), "breaks the least distance"),
        (lambda r: r["goals"][0].update(task="fly"), "fly"),
        (lambda r: r["goals"].append(r["goals"][0]), "twice"),
        (lambda r: r["goals"][0].update(id="../out"), "'../out': letters, digits"),
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
    (tmp_path / "goals.json").write_text(json.dumps([contents]))
    with pytest.raises(ManifestError, match="not a goal file"):
        load(tmp_path / "goals.json")


# --- goals that experts make ----------------------------------------------------------------------------------------

TASK_FILES = {name: files("jepa.configs") / "plan" / name for name in FILES}


@pytest.fixture(scope="module", params=["tabletop_tasks.json", "tabletop_two_objects.json", "pusht_goals.json"])
def made(request):
    if request.param == "pusht_goals.json":
        pytest.importorskip("gym_pusht")
    manifest = load(TASK_FILES[request.param])
    env = make(**manifest.environment)
    yield manifest, env
    env.close()


def test_task_goals_keep_their_rules(made):
    manifest, env = made
    check(manifest, env)
    assert (manifest.tolerance, manifest.close) == (0.05, 0.03)
    for task, decisions in manifest.decisions.items():
        goals = manifest.of(task, 100 if task in ("reach", "push") else 30)
        assert all(TASKS[task].least <= g.distance <= TASKS[task].most for g in goals)
        assert max(len(g.expert) for g in goals) <= decisions


def test_a_replayed_expert_solves_its_goal_to_the_bit(made):
    manifest, env = made
    for task in manifest.decisions:
        goal = manifest.of(task, 3)[2]
        env.set_state(goal.start)
        assert goal.expert.dtype == np.float32  # what a controller hands over
        for action in goal.expert:
            assert not action[manifest.frozen[task]].any()
            env.advance(action)
        assert np.array_equal(env.get_state(), goal.goal)
        assert outcome(env, goal, goal.goal, manifest.tolerance) == (0.0, True)
        assert outcome(env, goal, goal.start, manifest.tolerance)[1] is False


def test_stages_lead_to_the_goal_and_look_different(made):
    manifest, env = made
    for task, names in STAGES.items():
        if task not in manifest.decisions:
            continue
        for goal in manifest.of(task, 30)[::10]:
            assert tuple(name for name, _ in goal.stages)[-len(names) :] == names
            assert np.array_equal(goal.stages[-1][1], goal.goal)
            pictures = []
            for state in (goal.start, *(s for _, s in goal.stages)):
                env.set_state(state)
                pictures.append(env.render_at(64).astype(int))
            for before, after in itertools.pairwise(pictures):
                assert (np.abs(after - before).max(-1) > 20).sum() > 20


def test_building_task_goals_again_gives_the_shipped_ones(made):
    manifest, env = made
    name = {"push_beside": "tabletop_two_objects.json", "push_t": "pusht_goals.json"}.get(
        next(iter(manifest.decisions)), "tabletop_tasks.json"
    )
    shipped = json.loads(TASK_FILES[name].read_text())
    again = build_tasks(env, 0, dict.fromkeys(manifest.decisions, 1), manifest.environment)
    first = [g for g in shipped["goals"] if g["id"].endswith("-000")]
    for goal, other in zip(again["goals"], first, strict=True):
        assert goal["scene"] == other["scene"] and goal["aim"] == other["aim"]
        assert goal["distance"] == pytest.approx(other["distance"], abs=1e-4)
    assert {k: again[k] for k in again if k != "goals"} == {k: shipped[k] for k in shipped if k != "goals"}


def test_success_asks_for_more_than_the_distance(env):
    """An object held over its place is not put down; one at its height but not held is not grasped."""
    manifest = load(TASK_FILES["tabletop_tasks.json"])
    placing, grasping = manifest.of("pick_and_place", 1)[0], manifest.of("grasp", 1)[0]
    env.set_state(placing.goal)
    target = env.object_pos()
    carried = dict(placing.stages)["carried"]
    env.set_state(carried)
    assert np.linalg.norm(env.object_pos()[:2] - target[:2]) < 0.02
    assert outcome(env, placing, carried, 0.2) == (pytest.approx(0.085, abs=0.02), False)
    env.set_state(grasping.goal)
    for _ in range(2):
        env.advance(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    assert outcome(env, grasping, env.get_state(), 0.2)[1] is False
    both = load(TASK_FILES["tabletop_two_objects.json"])
    with contextlib.closing(make(**both.environment)) as two:
        goal = both.goals[0]
        two.set_state(goal.goal)
        assert outcome(two, goal, goal.goal, 0.05)[1]
        other = two.object_pos(1)[:2]
        two.place_object(1, other + np.array([0.0, 0.06 if other[1] < 0 else -0.06]))
        shoved = two.get_state()
        assert outcome(two, goal, shoved, 0.05) == (pytest.approx(0.0, abs=0.03), False)


def test_goals_in_other_looks_are_the_same_goals(tmp_path):
    contents = json.loads(TASK_FILES["tabletop_tasks.json"].read_text())
    contents["goals"] = [g for g in contents["goals"] if g["id"].endswith("-001")]
    (tmp_path / "few.json").write_text(json.dumps(contents))
    plain, varied = (load(tmp_path / "few.json", v) for v in (None, {"color": 1.0, "distractors": 1.0}))
    assert varied.environment["variation"]["color"] == 1.0 and varied.environment["variation"]["size"] == 0.05
    with contextlib.closing(make(**varied.environment)) as env:
        check(varied, env)
        a, b = plain.of("push", 1)[0], varied.of("push", 1)[0]
        assert np.array_equal(a.expert, b.expert) and a.distance == b.distance
        pictures = []
        for goal in (a, b):
            env.set_state(goal.goal)
            pictures.append(env.render_at(64).astype(int))
        assert (np.abs(pictures[1] - pictures[0]).max(-1) > 8).mean() > 0.2
    with pytest.raises(ManifestError, match="objects of other sizes move otherwise"):
        load(TASK_FILES["tabletop_tasks.json"], {"size": 1.0})
    with pytest.raises(ManifestError, match="holds states, whose looks are fixed"):
        load("", {"color": 1.0})
    with pytest.raises(ManifestError, match="looks of environment 'pusht' do not vary"):
        load(TASK_FILES["pusht_goals.json"], {"color": 1.0})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r["goals"][0].update(task="fly"), "no task 'fly'; there are: reach, push, grasp"),
        (lambda r: r["goals"][0].update(aim=[0.0, 0.0]), "not a goal file"),
        (lambda r: r["goals"][0].pop("scene"), "not a goal file"),
    ],
)
def test_spoilt_task_files_are_refused(tmp_path, spoil, message):
    contents = json.loads(TASK_FILES["tabletop_tasks.json"].read_text())
    contents["goals"] = contents["goals"][:1]
    spoil(contents)
    (tmp_path / "goals.json").write_text(json.dumps(contents))
    with pytest.raises(ManifestError, match=message):
        load(tmp_path / "goals.json")


def test_a_goal_that_is_solved_or_moved_is_found(env, tmp_path):
    contents = json.loads(TASK_FILES["tabletop_tasks.json"].read_text())
    contents["goals"] = [g for g in contents["goals"] if g["id"] == "grasp-000"]
    contents["goals"][0]["scene"] += 1
    (tmp_path / "goals.json").write_text(json.dumps(contents))
    with pytest.raises(ManifestError, match="grasp-000 is 0"):
        check(load(tmp_path / "goals.json"), env)
    goal = load(TASK_FILES["tabletop_tasks.json"]).of("grasp", 1)[0]
    far = float(np.linalg.norm(np.subtract(*positions(env, replace(goal, goal=goal.start, start=goal.goal)))))
    wrong = replace(goal, start=goal.goal, goal=goal.start, distance=far)
    with pytest.raises(ManifestError, match="done at the start, or not done at the goal"):
        check(replace(load(), goals=(wrong,)), env)


def test_missing_file_and_too_many_goals(tmp_path, shipped):
    with pytest.raises(ManifestError, match=r"nowhere\.json"):
        load(tmp_path / "nowhere.json")
    with pytest.raises(ManifestError, match="61 goals of task 'push'"):
        shipped.of("push", 61)
