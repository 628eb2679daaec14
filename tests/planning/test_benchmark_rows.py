"""Rows that need no trained world: floors and ceilings of every task are what they claim, sub-goals come in turn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")  # not mujoco: importing it first would settle its OpenGL backend

from jepa.config import load_config
from jepa.planning.bench import rows
from jepa.planning.bench.config import PlanConfig, frozen_goals
from jepa.planning.bench.jobs import missing, run_job
from jepa.planning.bench.run import cells_of
from jepa.planning.manifest import GoalPair

KNOWN = {"w": "w", "": ""}


def solved(config: PlanConfig, *names: str) -> dict[tuple[str, str], list[bool]]:
    """Success of every episode of these rows, by task and row."""
    manifest = frozen_goals(config)
    table = [row for row in rows.chosen(config)[0] if row.name in names]
    found: dict[tuple[str, str], list[bool]] = {}
    for job in missing(cells_of(table, config, manifest, KNOWN)[0], manifest):
        found.setdefault((job.cell.task, job.cell.row.name), []).extend(e["success"] for e in run_job(job))
    return found


@pytest.fixture
def config(tmp_path) -> PlanConfig:
    return load_config(PlanConfig, "plan", "debug", [f"out={tmp_path}", "world=w", "workers=0"])


def test_the_floors_are_floors_on_all_shipped_goals(config):
    """Random actions solve at most 15 %, doing nothing at most 5 %: the goals are not solved by accident."""
    for (task, row), found in solved(replace(config, goals=60), "random", "nothing").items():
        assert len(found) == 60 and np.mean(found) <= {"random": 0.15, "nothing": 0.05}[row], (task, row)


def test_the_ceiling_is_a_ceiling(config):
    """Planning on true dynamics solves what there is to solve, a push from any side included."""
    budget = replace(config.oracle, samples=24, iterations=2, elites=4)
    assert all(map(all, solved(replace(config, goals=2, oracle_goals=2, oracle=budget), "oracle").values()))


def test_the_expert_replays_to_every_goal_of_its_tasks_and_a_planner_in_the_simulator_follows_its_stages(config):
    tasks = ("reach", "push", "grasp", "pick_and_place")
    config = replace(config, manifest="tabletop_tasks.json", tasks=tasks, rows=("expert",), goals=4)
    found = solved(config, "expert")
    assert len(found) == 4 and all(map(all, found.values()))
    budget = replace(config.oracle, samples=32, iterations=3, elites=5)
    config = replace(config, tasks=("grasp",), rows=("oracle",), goals=1, oracle_goals=1, oracle=budget)
    assert solved(config, "oracle") == {("grasp", "oracle"): [True]}


def test_sub_goals_are_shown_in_turn_and_a_scene_with_fewer_repeats_its_goal():
    def goal(*states: float) -> GoalPair:
        stages = tuple((str(s), np.array([s])) for s in states)
        return GoalPair("g", "grasp", np.zeros(1), stages[-1][1], 0.1, stages)

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
        cells, _ = cells_of([ours], replace(config, patience={"push": patience}), manifest, KNOWN)
        keys.append({cell.task: cell.key for cell in cells})
    assert keys[0]["push"] != keys[1]["push"] and keys[0]["reach"] == keys[1]["reach"]


def test_replay_ends_with_zeros():
    actions = np.ones((2, 7), np.float32)
    act = rows.replay([actions, actions[:1]], 3)
    assert torch.stack([act(None, t).actions for t in range(3)])[:, :, 0].tolist() == [[1, 1], [1, 0], [0, 0]]
