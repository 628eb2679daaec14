"""The shipped goals keep their rules when measured in the simulator; files that break them are refused."""

import contextlib
import itertools
import json
import sys
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("gymnasium")  # not mujoco: importing it first would settle its OpenGL backend

from typer.testing import CliRunner

from jepa.cli import app
from jepa.config import ConfigError, load_config
from jepa.planning import make_goals
from jepa.planning import manifest as manifest_module
from jepa.planning.bench.config import PlanConfig, frozen_goals
from jepa.planning.envs.base import make
from jepa.planning.make_goals import FILES, TABLETOP, build, write
from jepa.planning.manifest import SLACK, Manifest, ManifestError, check, load, outcome, position, positions
from jepa.planning.offscreen import SimulatorError
from jepa.planning.tasks import TASKS

TASKS_FILE = "tabletop_tasks.json"
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
    env = make(**TABLETOP)
    yield env
    env.close()


@pytest.fixture(scope="module")
def shipped() -> Manifest:
    return load(TASKS_FILE)


def raw(name: str) -> dict:
    return json.loads((files("jepa.configs") / "plan" / name).read_text())


def test_pushes_go_every_way_for_any_number_of_goals(env, shipped):
    ways = [np.subtract(*positions(env, g)[::-1]) for g in shipped.of("push", 100)]
    angles = np.array([np.arctan2(w[1], w[0]) for w in ways])
    for count in (20, 50, 100):
        assert np.abs(np.exp(1j * angles[:count]).mean()) < 0.15
        gaps = np.diff(np.sort(np.append(angles[:count], angles[:count].min() + 2 * np.pi)))
        assert gaps.max() < np.pi / 3
    # The gripper starts anywhere, not behind the object.
    ahead = []
    for goal, way in zip(shipped.of("push", 100), ways, strict=True):
        env.set_state(goal.start)
        ahead.append((position(env, "reach")[:2] - position(env, "push")) @ way > 0)
    assert 0.25 < np.mean(ahead) < 0.75


def test_goal_images_show_what_they_should(env, shipped):
    for goal in shipped.of("reach", 100)[::12] + shipped.of("push", 100)[::12]:
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


def test_a_distance_that_is_not_true_is_found(env, shipped):
    near, wrong = (replace(goal := shipped.goals[0], distance=goal.distance + k * SLACK) for k in (0.9, 1.1))
    check(replace(shipped, goals=(near,)), env)
    with pytest.raises(ManifestError, match="reach-000 is 0"):
        check(replace(shipped, goals=(wrong,)), env)


def test_pushes_in_one_direction_only_are_refused(env, shipped):
    ahead = [g for g in shipped.of("push", 100) if np.subtract(*positions(env, g))[1] < 0]
    with pytest.raises(ManifestError, match="all directions"):
        check(replace(shipped, goals=tuple(ahead)), env)


@pytest.fixture(scope="module", params=FILES)
def made(request, tmp_path_factory):
    """Whole files where a scene takes 10 ms; of the other arms 5 goals of each task."""
    path, arm = request.param, FILES[request.param][0]["name"] not in ("tabletop", "pusht")
    if arm:
        contents = raw(path)
        contents["goals"] = [goal for goal in contents["goals"] if goal["id"][-3:] < "005"]
        path = tmp_path_factory.mktemp("few") / path
        path.write_text(json.dumps(contents))
    try:
        manifest = load(path)
    except SimulatorError as error:
        pytest.skip(str(error))
    env = make(**manifest.environment)
    yield manifest, env
    env.close()


def test_every_shipped_file_is_one_that_is_built_again():
    folder = files("jepa.configs") / "plan"
    assert {path.name for path in folder.iterdir() if path.name.endswith(".json")} == set(FILES)
    for name, (environment, counts) in FILES.items():
        assert raw(name)["environment"] == environment
        assert Counter(goal["task"] for goal in raw(name)["goals"]) == counts


def test_shipped_goals_keep_their_rules(made):
    manifest, env = made
    check(manifest, env)
    assert (manifest.tolerance, manifest.close) == (0.05, 0.03)
    for task, decisions in manifest.decisions.items():
        goals = [g for g in manifest.goals if g.task == task]
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
        for goal in [g for g in manifest.goals if g.task == task][:30:10]:
            assert tuple(name for name, _ in goal.stages)[-len(names) :] == names
            assert np.array_equal(goal.stages[-1][1], goal.goal)
            pictures = []
            for state in (goal.start, *(s for _, s in goal.stages)):
                env.set_state(state)
                pictures.append(env.render_at(64).astype(int))
            for before, after in itertools.pairwise(pictures):
                assert (np.abs(after - before).max(-1) > 20).sum() > 20


def test_building_again_gives_the_shipped_goals(made, tmp_path):
    manifest, env = made
    (name,) = (name for name, (environment, _) in FILES.items() if environment == manifest.environment)
    shipped = raw(name)
    again = build(env, 0, dict.fromkeys(manifest.decisions, 1), manifest.environment)
    write(tmp_path / "again.json", again)
    assert json.loads((tmp_path / "again.json").read_text()) == again
    first = [g for g in shipped["goals"] if g["id"].endswith("-000")]
    for goal, other in zip(again["goals"], first, strict=True):
        assert goal["scene"] == other["scene"] and goal["aim"] == other["aim"]
        assert goal["distance"] == pytest.approx(other["distance"], abs=1e-4)
    assert {k: again[k] for k in again if k != "goals"} == {k: shipped[k] for k in shipped if k != "goals"}


def test_success_asks_for_more_than_the_distance(env):
    """An object held over its place is not put down; one at its height but not held is not grasped."""
    manifest = load(TASKS_FILE)
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
    both = load("tabletop_two_objects.json")
    with contextlib.closing(make(**both.environment)) as two:
        goal = both.goals[0]
        two.set_state(goal.goal)
        assert outcome(two, goal, goal.goal, 0.05)[1]
        other = two.object_pos(1)[:2]
        two.place_object(1, other + np.array([0.0, 0.06 if other[1] < 0 else -0.06]))
        shoved = two.get_state()
        assert outcome(two, goal, shoved, 0.05) == (pytest.approx(0.0, abs=0.03), False)


def test_goals_in_other_looks_are_the_same_goals(tmp_path):
    contents = raw(TASKS_FILE)
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
        load(TASKS_FILE, {"size": 1.0})
    with pytest.raises(ManifestError, match="looks of environment 'pusht' do not vary"):
        load("pusht_goals.json", {"color": 1.0})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r["goals"][0].update(task="fly"), "no task 'fly'; there are: reach, push, grasp"),
        (lambda r: r["goals"][0].update(aim=[0.0, 0.0]), "not a goal file"),
        (lambda r: r["goals"][0].pop("scene"), "not a goal file"),
        (lambda r: r["goals"][0].update(distance=0.119), "breaks the least distance"),
        (lambda r: r["goals"].append(r["goals"][0]), "twice"),
        (lambda r: r["goals"][0].update(id="../out"), "'../out': letters, digits"),
        (lambda r: r.pop("tolerance"), "tolerance"),
        (lambda r: r.update(format="jepa-goals-1"), "format 'jepa-goals-1' is not jepa-goals-2"),
    ],
)
def test_spoilt_files_are_refused(tmp_path, spoil, message):
    contents = raw(TASKS_FILE)
    contents["goals"] = contents["goals"][:1]
    spoil(contents)
    (tmp_path / "goals.json").write_text(json.dumps(contents))
    with pytest.raises(ManifestError, match=message):
        load(tmp_path / "goals.json")
    (tmp_path / "goals.json").write_text(json.dumps([contents]))
    with pytest.raises(ManifestError, match="not a goal file"):
        load(tmp_path / "goals.json")


def test_a_goal_that_is_solved_or_moved_is_found(env, tmp_path):
    contents = raw(TASKS_FILE)
    contents["goals"] = [g for g in contents["goals"] if g["id"] == "reach-000"]
    contents["goals"][0]["scene"] += 1
    (tmp_path / "goals.json").write_text(json.dumps(contents))
    with pytest.raises(ManifestError, match="reach-000 is 0"):
        check(load(tmp_path / "goals.json"), env)
    goal = load(TASKS_FILE).of("grasp", 1)[0]
    far = float(np.linalg.norm(np.subtract(*positions(env, replace(goal, goal=goal.start, start=goal.goal)))))
    wrong = replace(goal, start=goal.goal, goal=goal.start, distance=far)
    with pytest.raises(ManifestError, match="done at the start, or not done at the goal"):
        check(replace(load(TASKS_FILE), goals=(wrong,)), env)


@pytest.mark.parametrize("name", ["tabletop", "pusht", "fetch", "metaworld", "ogbench"])
def test_goals_of_any_environment_are_frozen_by_the_verb(name, tmp_path):
    """At seed 0 the first of the shipped ones; at another seed others; and the benchmark takes them."""
    task, out = {"pusht": "push_t"}.get(name, "reach"), tmp_path / "new" / "goals.json"
    given = ["plan", "goals", str(out), "--env", name, "--tasks", task, "--goals", "1"]
    verb = CliRunner().invoke(app, given)
    if isinstance(verb.exception, SimulatorError):
        pytest.skip(str(verb.exception))
    assert verb.exit_code == 0, verb.output
    assert f"1 goals of each task; jepa plan bench PRESET world=RUN manifest={out} 'tasks=[{task}]'" in verb.output
    (shipped,) = (raw(file) for file, (own, counts) in FILES.items() if own["name"] == name and task in counts)
    (goal,), again = json.loads(out.read_text())["goals"], shipped["goals"][0]
    assert (goal["id"], goal["scene"], goal["aim"]) == (f"{task}-000", again["scene"], again["aim"])
    config = load_config(PlanConfig, "plan", "tabletop", ["world=w", "out=o", f"manifest={out}", f"tasks=[{task}]"])
    assert len(frozen_goals(config).of(task, 1)) == 1
    if name == "tabletop":
        assert CliRunner().invoke(app, [*given, "--seed", "1"]).exit_code == 0
        assert json.loads(out.read_text())["goals"][0]["scene"] != goal["scene"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--env", "nowhere"], "no environment 'nowhere'; there are: fetch, metaworld"),
        (["--tasks", "reach,fly"], "no task 'fly'; there are: reach, push, grasp"),
        (
            ["--tasks", "push_beside"],
            "'push_beside' cannot be asked in tabletop with 1 object; there are: reach, push,",
        ),
        (["--tasks", "reach,push_t", "--objects", "2"], "'push_t' cannot be asked in tabletop with 2 objects; there"),
    ],
)
def test_goals_that_cannot_be_are_one_line_and_no_file(given, says, tmp_path):
    verb = CliRunner().invoke(app, ["plan", "goals", str(tmp_path / "goals.json"), *given])
    assert isinstance(verb.exception, ConfigError | ManifestError) and says in str(verb.exception)
    assert not (tmp_path / "goals.json").exists()


def test_an_expert_that_never_does_it_ends_the_search(env, monkeypatch):
    monkeypatch.setitem(make_goals.AIMS, "push", lambda *given: None)
    monkeypatch.setattr(make_goals, "TRIES", 3)
    with pytest.raises(ConfigError, match="in 3 scenes of tabletop its expert never did it"):
        build(env, 0, {"push": 1}, TABLETOP)


def test_all_shipped_files_are_built_and_for_other_looks_the_tabletops_alone(monkeypatch, tmp_path):
    frozen = {}
    monkeypatch.setattr(make_goals, "freeze", lambda path, environment, counts: frozen.update({path.name: environment}))
    make_goals.main(str(tmp_path))
    assert frozen == {name: environment for name, (environment, _) in FILES.items()}
    frozen.clear()
    make_goals.main(str(tmp_path), "size=1")
    assert set(frozen) == {"tabletop_tasks.json", "tabletop_two_objects.json"}
    assert all((e["variation"]["size"], e["variation"]["color"]) == (1.0, 0.05) for e in frozen.values())


def test_an_aim_where_the_hand_is_already_is_none(env):
    env.reset(seed=0)
    here = env.ee_pose()[:3]
    assert make_goals.AIMS["reach"](env, SimpleNamespace(uniform=lambda low, high: here + 0.005), 0) is None


def test_a_goal_file_of_an_environment_that_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gym_pusht.envs.pusht", None)
    manifest_module._play.cache_clear()
    with pytest.raises(SimulatorError, match=r"^gym-pusht is not installed .*: pip install 'openjepa\[pusht\]'$"):
        load("pusht_goals.json")


def test_missing_file_and_too_many_goals(tmp_path, shipped):
    with pytest.raises(ManifestError, match=r"nowhere\.json"):
        load(tmp_path / "nowhere.json")
    with pytest.raises(ManifestError, match="101 goals of task 'push'"):
        shipped.of("push", 101)
