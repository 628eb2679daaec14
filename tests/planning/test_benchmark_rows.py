"""Rows that need no trained world: floors and ceilings of every task are what they claim, sub-goals come in turn."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")  # not mujoco: importing it first would settle its OpenGL backend

from jepa.config import ConfigError, load_config
from jepa.planning.bench import rows
from jepa.planning.bench import run as bench
from jepa.planning.bench.config import PlanConfig, frozen_goals
from jepa.planning.bench.jobs import Job, missing, run_job
from jepa.planning.bench.run import cells_of
from jepa.planning.constraints import vjepa2_ac_bounds
from jepa.planning.envs.base import make
from jepa.planning.manifest import GoalPair

KNOWN = {"w": "w", "": ""}


def solved(config: PlanConfig, *names: str) -> dict[tuple[str, str], list[bool]]:
    """Success of every episode of these rows, by task and row."""
    manifest = frozen_goals(config)
    table = [row for row in rows.chosen(config)[0] if row.name in names]
    found: dict[tuple[str, str], list[bool]] = {}
    for job in missing(cells_of(table, config, manifest, KNOWN), manifest):
        found.setdefault((job.cell.task, job.cell.row.name), []).extend(e["success"] for e in run_job(job))
    return found


def pending(config: PlanConfig) -> list[Job]:
    manifest = frozen_goals(config)
    return missing(cells_of(rows.chosen(config)[0], config, manifest, KNOWN), manifest)


@pytest.fixture
def config(tmp_path) -> PlanConfig:
    return load_config(PlanConfig, "plan", "debug", [f"out={tmp_path}", "world=w", "workers=0"])


def test_the_floors_are_floors_on_all_shipped_goals(config):
    """Random actions solve at most 15 %, doing nothing at most 5 %: the goals are not solved by accident."""
    for (task, row), found in solved(replace(config, goals=0), "random", "nothing").items():
        assert len(found) == 100 and np.mean(found) <= {"random": 0.15, "nothing": 0.05}[row], (task, row)


def test_the_ceiling_is_a_ceiling(config):
    """Planning on true dynamics solves what there is to solve, a push from any side included."""
    budget = replace(config.oracle, samples=24, iterations=2, elites=4)
    assert all(map(all, solved(replace(config, goals=2, oracle_goals=2, oracle=budget), "oracle").values()))


def test_the_expert_replays_to_every_goal_of_its_tasks_and_a_planner_in_the_simulator_follows_its_stages(config):
    tasks = ("reach", "push", "grasp", "pick_and_place")
    config = replace(config, tasks=tasks, rows=("expert",), goals=4)
    found = solved(config, "expert")
    assert len(found) == 4 and all(map(all, found.values()))
    budget = replace(config.oracle, samples=32, iterations=3, elites=5)
    config = replace(config, tasks=("grasp",), rows=("oracle",), goals=1, oracle_goals=1, oracle=budget)
    assert solved(config, "oracle") == {("grasp", "oracle"): [True]}


def test_sub_goals_are_shown_in_turn_and_a_scene_with_fewer_repeats_its_goal():
    def goal(*states: float) -> GoalPair:
        stages = tuple((str(s), np.array([s])) for s in states)
        return GoalPair("g", "grasp", np.zeros(1), stages[-1][1], 0.1, stages, np.zeros((1, 7), np.float32))

    goals = [goal(1.0, 2.0, 3.0), goal(4.0, 5.0)]
    assert np.squeeze(rows._stages(goals, True)).tolist() == [[1, 4], [2, 5], [3, 5]]
    assert np.squeeze(rows._stages(goals, False)).tolist() == [3, 5]


def test_each_task_has_its_own_patience_with_a_sub_goal_and_another_patience_is_another_cell(config):
    config = replace(config, subgoals=("push",), patience={"push": [5, 3], "reach": [1]})
    assert config.switch_of("push").patience == (5, 3) and config.switch_of("reach") is None
    assert replace(config, patience={}).switch_of("push") == config.switch
    (ours,) = [row for row in rows.chosen(config)[0] if row.kind == "ours"]
    manifest, keys = frozen_goals(config), []
    for patience in ([5, 3], [4]):
        cells = cells_of([ours], replace(config, patience={"push": patience}), manifest, KNOWN)
        keys.append({cell.task: cell.key for cell in cells})
    assert keys[0]["push"] != keys[1]["push"] and keys[0]["reach"] == keys[1]["reach"]


def test_the_preset_of_vjepa2_ac_has_its_action_set_on_every_task():
    config = load_config(PlanConfig, "plan", "vjepa2_ac", ["world=w", "out=o"])
    manifest, theirs = frozen_goals(config), vjepa2_ac_bounds()
    with contextlib.closing(make(**manifest.environment)) as env:
        for task in config.tasks:
            ours = rows.action_bounds(env, config, manifest.frozen[task])
            assert all(map(torch.equal, ours.limits(3), theirs.limits(3))) and torch.equal(ours.scale, theirs.scale)
            assert (ours.frozen, ours.balls, ours.schedules) == (theirs.frozen, (), ())
        free = replace(config, bounds=replace(config.bounds, frozen=()))
        assert rows.action_bounds(env, free, [3, 4, 5]).scale[3:6].tolist() == pytest.approx(env.action_limit[3:6])


def test_without_bounds_the_box_is_the_environments(config):
    """Bit for bit, as the tables that are published were made."""
    with contextlib.closing(make("tabletop")) as env:
        bounds = rows.action_bounds(env, replace(config, step_fraction=0.3), [5])
        limit = 0.3 * torch.as_tensor(env.action_limit)
        assert torch.equal(bounds.high, limit) and torch.equal(bounds.low, -limit)
        assert (bounds.frozen, bounds.balls, bounds.schedules) == ((5,), (), ())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("bounds.low=[-0.1]", r"bounds\.low has 1 numbers; an action has 7"),
        ("bounds.high=[0.05,0.05,0.05,0,0,0,2]", r"bounds\.high is .*; the robot carries out"),
        ("bounds={low: [0.02,0,0,0,0,0,0], high: [0.01,0,0,0,0,0,0]}", "low ≤ high"),
        ("bounds.frozen=[7]", "bounds: there is no axis 7 in actions of 7"),
        ("bounds.balls=[{axes: [0, 1], radius: 0}]", "radius above 0"),
        ("bounds.balls=[{axes: [0, 9], radius: 1}]", "bounds: there is no axis 9"),
        ("bounds.schedules=[{axis: 6, value: 1}]", "'value' not in 'Schedule'"),
        ("execute=3", "execute=3: the plans of row 'ours' have a horizon of 2"),
        ("execute=0", "execute is at least 1"),
        ("seconds=0", "seconds above 0"),
        ("context=-1", "context is a number of frames, or 0 for all of an episode; got -1"),
        ("device=tpu", "device 'tpu' is not cpu, or cuda where torch finds a GPU"),
        ("precision=fp16", "precision 'fp16' is not one of fp32, bf16"),
    ],
)
def test_mistakes_in_constraints_and_pace_are_one_line_before_anything_runs(tmp_path, monkeypatch, given, says):
    monkeypatch.setattr(bench, "weights", lambda run: run)
    monkeypatch.setattr(bench, "check_camera", lambda run: None)
    monkeypatch.setattr(bench, "work", lambda *args: pytest.fail("too late"))
    small = ["world=w", f"out={tmp_path}", "rows=[random]", "oracle.horizon=3"]
    with pytest.raises(ConfigError, match=says) as caught:
        bench.run(load_config(PlanConfig, "plan", "debug", [*small, given]))
    assert "\n" not in str(caught.value)


def test_random_actions_obey_balls_and_schedules(config):
    spread = "bounds.balls=[{axes: [0, 1, 2], radius: 0.02}]"
    closing = "bounds.schedules=[{axis: 6, values: [null, null, 1]}]"
    given = ["world=w", f"out={config.out}", "workers=0", "tasks=[push]", "goals=2", spread, closing]
    own = load_config(PlanConfig, "plan", "debug", given)
    (plain,), (held,) = (
        [run_job(job) for job in pending(c) if job.cell.row.kind == "random"]
        for c in (replace(config, tasks=("push",), goals=2), own)
    )
    free, bound = (np.array([e["actions"] for e in episodes]) for episodes in (plain, held))
    lengths = np.linalg.norm(bound[..., :3], axis=-1)
    assert lengths.max() <= 0.02 + 1e-6 < np.linalg.norm(free[..., :3], axis=-1).max() and lengths.min() > 0
    assert (bound[:, 2:, 6] == 1).all() and (np.abs(bound[:, :2, 6]) < 1).all()


def test_a_context_is_told_to_rows_that_plan_in_a_world_and_makes_other_cells_of_them(config, monkeypatch):
    told = {}
    monkeypatch.setattr(rows, "Replan", lambda *given, context, **own: told.update({given[0].kind: context}))
    monkeypatch.setattr(rows, "SimulatorWorld", lambda *given: SimpleNamespace(kind="simulator"))
    monkeypatch.setattr(rows, "load_world", lambda run: (SimpleNamespace(to=lambda device: seeing),) * 2)
    monkeypatch.setattr(rows, "check_weights", lambda *given: None)
    monkeypatch.setattr(rows, "look", lambda *given: None)
    seeing = SimpleNamespace(kind="world", config=SimpleNamespace(size=8))
    config = replace(config, context=3, rows=("oracle", "random"))
    manifest = frozen_goals(config)
    table = rows.chosen(config)[0]
    for row in (table[0], table[-1]):
        rows.controller(row, config, None, None, manifest.of("reach", 1), streams=[0], seed=0, limit=1)
    assert told == {"world": 3, "simulator": 0}
    keys = [{c.row.name: c.key for c in cells_of(table, replace(config, context=k), manifest, KNOWN)} for k in (0, 3)]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"ours"}


def test_encoder_and_world_go_where_device_says(config, monkeypatch):
    gone = []

    class Part(torch.nn.Module):
        def to(self, device):
            gone.append(device)
            raise LookupError

    monkeypatch.setattr(rows, "load_world", lambda run: (Part(), Part()))
    monkeypatch.setattr(rows, "check_weights", lambda *given: None)
    for kind, device in (("ours", "cuda"), ("true_dynamics", "cpu")):  # the simulator is not there
        row, goals = rows.Row(kind, kind, kind), [SimpleNamespace(task="reach")]
        with pytest.raises(LookupError):
            rows.controller(row, replace(config, device="cuda"), None, None, goals, streams=[0], seed=0, limit=1)
        assert gone.pop() == device


def test_rows_of_a_world_plan_in_the_precision_that_is_asked_for_and_simulators_in_full(config, monkeypatch):
    told = []
    monkeypatch.setattr(rows, "load_world", lambda run: (torch.nn.Identity(), torch.nn.Identity()))
    monkeypatch.setattr(rows, "check_weights", lambda *given: None)
    monkeypatch.setattr(rows, "eyes", lambda encoder: None)
    monkeypatch.setattr(rows, "pictured", lambda *given: None)
    monkeypatch.setattr(rows, "look", lambda *given: None)
    monkeypatch.setattr(rows, "Replan", lambda *given, precision, **own: told.append(precision))
    monkeypatch.setattr(torch.nn.Identity, "config", SimpleNamespace(size=16), raising=False)
    goals, own = [SimpleNamespace(task="reach", goal=None)], {"streams": [0], "seed": 0, "limit": 1}
    for kind in ("ours", "control", "inverse", "true_dynamics", "oracle"):
        row = rows.Row(kind, kind, kind, planner=config.planner)
        rows.controller(row, replace(config, precision="bf16"), None, None, goals, **own)
    assert told == ["bf16", "bf16", "bf16", "fp32", "fp32"]


def test_replay_ends_with_zeros():
    actions = np.ones((2, 7), np.float32)
    act = rows.replay([actions, actions[:1]], 3)
    assert torch.stack([act(None, t).actions for t in range(3)])[:, :, 0].tolist() == [[1, 1], [1, 0], [0, 0]]
