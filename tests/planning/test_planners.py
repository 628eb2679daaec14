"""The contract of every file in planning/planners: finds a known optimum, mixes no rows, survives NaN."""

import importlib

import pytest
import torch
from torch import Tensor

from jepa.config import ConfigError, from_dict, plugin_names
from jepa.planning.goals import LastStepDistance, LastStepL1
from jepa.planning.planners.base import Bounds, shift
from jepa.worlds.base import State, Step, WorldModel

torch.set_num_threads(1)
PACKAGE = "jepa.planning.planners"
BOUNDS = Bounds(torch.full((4,), -0.1), torch.full((4,), 0.1), frozen=(2,))
SMALL = {"horizon": 3, "samples": 128, "iterations": 8, "elites": 12, "chunk": 50}


class Point(WorldModel):
    """A point in the plane, moved by the first two axes; the third is a poison, the fourth is idle."""

    def observe(self, state, tokens, proprio=None, actions=None) -> State:
        return {"x": tokens[:, -1, 0]}

    def step(self, state, action, generator=None) -> Step:
        return Step({"x": state["x"] + action[:, :2] + 10 * action[:, 2:3]})

    def features(self, state) -> Tensor:
        return state["x"][:, None]


class Flaky(Point):
    """Has no idea where it ends up to the left of the start; to the right all is well."""

    def features(self, state) -> Tensor:
        x = super().features(state)
        return torch.where(x[..., :1] < 0, torch.nan, x)


class Blind(Point):
    def features(self, state) -> Tensor:
        return super().features(state) * torch.nan


def make(name: str, **values):
    module = importlib.import_module(f"{PACKAGE}.{name}")
    known = {k: v for k, v in SMALL.items() if k in module.Config.__dataclass_fields__}
    return module.build(from_dict(module.Config, {**known, **values}, name))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(*xy: tuple[float, float]) -> Tensor:
    return torch.tensor(xy)[:, None]  # (B, 1, 2)


START = {"x": torch.zeros(3, 2)}
GOALS = points((0.15, -0.2), (-0.05, 0.0), (0.21, 0.12))
each_planner = pytest.mark.parametrize("name", plugin_names(PACKAGE))


@each_planner
@pytest.mark.parametrize("goal", [LastStepL1, LastStepDistance])
def test_reaches_a_goal_within_reach(name, goal):
    plan = make(name).plan(Point(), START, goal(GOALS), generator(), bounds=BOUNDS)
    torch.testing.assert_close(plan.actions[:, :, :2].sum(1), GOALS[:, 0], atol=0.02, rtol=0)
    doing_nothing = goal(GOALS)(_future(torch.zeros(3, 1, 1, 1, 2)))[:, 0]
    assert (plan.cost < doing_nothing).all() and plan.model_steps > 0


@each_planner
def test_goes_flat_out_towards_a_goal_out_of_reach(name):
    far = LastStepDistance(points((9.0, 9.0), (-9.0, 9.0), (0.0, -9.0)))
    plan = make(name).plan(Point(), START, far, generator(), bounds=BOUNDS)
    moved = plan.actions[:, :, :2].sum(1)
    best = torch.tensor([[0.3, 0.3], [-0.3, 0.3], [0.0, -0.3]])
    torch.testing.assert_close(moved, best, atol=0.08, rtol=0)


@each_planner
def test_stays_in_bounds_and_frozen_axes_stay_at_zero(name):
    lopsided = Bounds(torch.tensor([-0.1, 0.0, -1.0, -0.2]), torch.tensor([0.02, 0.1, 1.0, 0.2]), frozen=(2,))
    plan = make(name).plan(Point(), START, LastStepL1(GOALS), generator(), bounds=lopsided)
    assert (plan.actions >= lopsided.low).all() and (plan.actions <= lopsided.high).all()
    assert (plan.actions[:, :, 2] == 0).all()


@each_planner
def test_cost_is_that_of_the_returned_actions(name):
    plan = make(name).plan(Point(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS)
    reached = plan.actions[:, :, :2].sum(1)
    torch.testing.assert_close(plan.cost, (reached - GOALS[:, 0]).abs().mean(-1))


@each_planner
def test_with_few_samples_a_plan_is_still_no_worse_than_its_warm_start(name):
    near = torch.zeros(3, 3, 4)
    near[..., :2] = GOALS / 3 + 0.001
    few = {"samples": 6, "iterations": 2, "elites": 3}
    plan = make(name, **few).plan(Point(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS, warm_start=near)
    assert (plan.cost <= 0.003 + 1e-6).all()


@each_planner
def test_same_seed_same_plan_and_the_global_seed_does_not_matter(name):
    def once(seed: int) -> Tensor:
        return make(name).plan(Point(), START, LastStepL1(GOALS), generator(seed), bounds=BOUNDS).actions

    torch.manual_seed(0)
    first = once(3)
    torch.manual_seed(1)
    assert torch.equal(once(3), first) and not torch.equal(once(4), first)


@each_planner
def test_a_row_is_planned_the_same_in_any_company(name):
    def plan(rows: list[int]) -> Tensor:
        state = {"x": torch.tensor([[0.0, 0.0], [0.1, 0.1], [-0.1, 0.0]])[rows]}
        return make(name).plan(Point(), state, LastStepL1(GOALS[rows]), generator(), bounds=BOUNDS).actions

    together = plan([0, 1, 2])
    torch.testing.assert_close(plan([2, 0, 1]), together[[2, 0, 1]], atol=1e-6, rtol=0)
    for row in range(3):
        torch.testing.assert_close(plan([row])[0], together[row], atol=1e-6, rtol=0)


@each_planner
def test_leaves_its_inputs_alone(name):
    state, warm = {"x": torch.zeros(3, 2)}, torch.full((3, 3, 4), 0.05)
    make(name).plan(Point(), state, LastStepL1(GOALS), generator(), bounds=BOUNDS, warm_start=warm)
    assert (state["x"] == 0).all() and (warm == 0.05).all()


@pytest.mark.fault("P1")
@each_planner
def test_nan_energies_are_worst_not_contagious(name):
    plan = make(name).plan(Flaky(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS)
    assert plan.actions.isfinite().all() and not plan.cost.isnan().any()
    reached = plan.actions[:, :, :2].sum(1)
    torch.testing.assert_close(reached[[0, 2]], GOALS[[0, 2], 0], atol=0.03, rtol=0)


@pytest.mark.fault("P1")
@each_planner
def test_where_every_energy_is_nan_the_warm_start_stands(name):
    warm = torch.full((3, 3, 4), 0.05)
    plan = make(name).plan(Blind(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS, warm_start=warm)
    torch.testing.assert_close(plan.actions, BOUNDS.clip(warm))
    assert (plan.cost == torch.inf).all()


@each_planner
def test_a_warm_start_helps_where_the_budget_is_spent(name):
    best = torch.zeros(3, 3, 4)
    best[..., :2] = GOALS / 3
    late = {"deadline": 0.0, "bounds": BOUNDS}
    plan = make(name).plan(Point(), START, LastStepL1(GOALS), generator(), warm_start=best, **late)
    cold = make(name).plan(Point(), START, LastStepL1(GOALS), generator(), **late)
    assert (plan.cost < 1e-6).all() and (cold.cost > 0.02).all()
    full = make(name).plan(Point(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS)
    assert plan.model_steps < full.model_steps


def test_shift_drops_what_was_done():
    actions = torch.arange(6.0).reshape(1, 3, 2)
    assert torch.equal(shift(actions), torch.tensor([[[2.0, 3.0], [4.0, 5.0], [0.0, 0.0]]]))


def test_bounds_refuse_a_crossed_box():
    with pytest.raises(ValueError, match="low ≤ high"):
        Bounds(torch.ones(2), torch.zeros(2))


def test_cem_refuses_settings_it_cannot_refit_from():
    with pytest.raises(ValueError, match="elites"):
        make("cem", samples=4, elites=5)
    with pytest.raises(ConfigError, match="elitse"):
        make("cem", elitse=5)


def _future(features: Tensor):
    from jepa.worlds.base import Future

    return Future(features, torch.zeros(1))
