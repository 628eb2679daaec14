"""The contract of every file in planning/planners: finds a known optimum, mixes no rows, survives NaN."""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from jepa.config import ConfigError, build, from_dict, load_config, plugin_names
from jepa.planning import inverse
from jepa.planning.bench.config import PlanConfig
from jepa.planning.constraints import Ball, Bounds, Schedule, vjepa2_ac_bounds
from jepa.planning.goals import GoalConfig, LastStepDistance, LastStepL1
from jepa.planning.planners.base import Plan, late, shift
from jepa.planning.planners.icem import coloured_noise
from jepa.worlds.base import State, Step, WorldModel

torch.set_num_threads(1)
PACKAGE = "jepa.planning.planners"
BOUNDS = Bounds(torch.full((4,), -0.1), torch.full((4,), 0.1), frozen=(2,))
SMALL = {"horizon": 3, "samples": 128, "iterations": 8, "elites": 12, "chunk": 50, "init_std": 1.0}
OWN = {"gradient": {"iterations": 40}, "halving_cem": {"samples": 64, "keep": 1.0}}


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


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """An inverse-dynamics net of `Point`, whose answer to a goal one step away is the difference."""
    x, actions = torch.zeros(64, 6, 2), torch.rand(64, 5, 4, generator=generator()) * 0.2 - 0.1
    x[:, 1:] = actions[..., :2].cumsum(1)
    actions[..., 2:] = 0.0
    config = inverse.InverseConfig(proprio=False, width=32, steps=300, learning_rate=3e-3)
    path = tmp_path_factory.mktemp("inverse") / "net.safetensors"
    features, actions = x.flatten(0, 1)[:, None], actions.flatten(0, 1)  # episodes of 6 frames, end to end
    net = inverse.train(features, actions, torch.zeros(384, 3), torch.full((64,), 6), config, generator())
    inverse.save(net, path)
    return str(path)


@pytest.fixture
def make(net):
    def built(name: str, **values):
        module = importlib.import_module(f"{PACKAGE}.{name}")
        given = {**SMALL, **OWN.get(name, {}), "weights": net}
        known = {k: v for k, v in given.items() if k in module.Config.__dataclass_fields__}
        values = {k: v for k, v in values.items() if k in module.Config.__dataclass_fields__}
        return module.build(from_dict(module.Config, {**known, **values}, name))

    return built


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(*xy: tuple[float, float]) -> Tensor:
    return torch.tensor(xy)[:, None]  # (B, 1, 2)


START = {"x": torch.zeros(3, 2)}
GOALS = points((0.15, -0.2), (-0.05, 0.0), (0.21, 0.12))
NAMES = plugin_names(PACKAGE)
each_planner = pytest.mark.parametrize("name", NAMES)
each_search = pytest.mark.parametrize("name", [name for name in NAMES if name != "inverse_dynamics"])


@each_search
@pytest.mark.parametrize("goal", [LastStepL1, LastStepDistance])
def test_reaches_a_goal_within_reach(make, name, goal):
    plan = make(name).plan(Point(), START, goal(GOALS), generator(), bounds=BOUNDS)
    torch.testing.assert_close(plan.actions[:, :, :2].sum(1), GOALS[:, 0], atol=0.02, rtol=0)
    doing_nothing = goal(GOALS)(_future(torch.zeros(3, 1, 1, 1, 2)))[:, 0]
    assert (plan.cost < doing_nothing).all() and plan.model_steps > 0


@each_search
def test_goes_flat_out_towards_a_goal_out_of_reach(make, name):
    far = LastStepDistance(points((9.0, 9.0), (-9.0, 9.0), (0.0, -9.0)))
    plan = make(name).plan(Point(), START, far, generator(), bounds=BOUNDS)
    moved = plan.actions[:, :, :2].sum(1)
    best = torch.tensor([[0.3, 0.3], [-0.3, 0.3], [0.0, -0.3]])
    torch.testing.assert_close(moved, best, atol=0.08, rtol=0)


@each_planner
def test_stays_in_bounds_and_frozen_axes_stay_at_zero(make, name):
    lopsided = Bounds(torch.tensor([-0.1, 0.0, -1.0, -0.2]), torch.tensor([0.02, 0.1, 1.0, 0.2]), frozen=(2,))
    plan = make(name).plan(Point(), START, LastStepL1(GOALS), generator(), bounds=lopsided)
    assert (plan.actions >= lopsided.low).all() and (plan.actions <= lopsided.high).all()
    assert (plan.actions[:, :, 2] == 0).all()


@each_planner
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_plans_lie_in_a_ball_and_follow_a_schedule(make, name, norm):
    ball, forced = Ball((0, 1), 0.06, norm), Schedule(3, (None, 0.15))
    bounds = Bounds(BOUNDS.low, BOUNDS.high, (2,), (ball,), (forced,))
    far = LastStepDistance(points((9.0, 9.0), (-9.0, 9.0), (0.0, -9.0)))
    actions = make(name).plan(Point(), START, far, generator(), bounds=bounds).actions
    length = torch.linalg.vector_norm(actions[..., :2], ord={"l1": 1, "l2": 2, "linf": torch.inf}[norm], dim=-1)
    assert (length <= 0.06 + 1e-6).all() and (length > 0.03).all()
    assert (actions[:, 1:, 3] == 0.15).all() and (actions[..., 2] == 0).all()


@each_planner
def test_cost_is_that_of_the_returned_actions(make, name):
    plan = make(name).plan(Point(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS)
    reached = plan.actions[:, :, :2].sum(1)
    torch.testing.assert_close(plan.cost, (reached - GOALS[:, 0]).abs().mean(-1))


@each_search
def test_with_few_samples_a_plan_is_still_no_worse_than_its_warm_start(make, name):
    near = torch.zeros(3, 3, 4)
    near[..., :2] = GOALS / 3 + 0.001
    few = {"samples": 6, "iterations": 2, "elites": 3}
    plan = make(name, **few).plan(Point(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS, warm_start=near)
    assert (plan.cost <= 0.003 + 1e-6).all()


@each_planner
def test_same_seed_same_plan_and_the_global_seed_does_not_matter(make, name):
    def once(seed: int) -> Tensor:
        return make(name).plan(Point(), START, LastStepL1(GOALS), generator(seed), bounds=BOUNDS).actions

    torch.manual_seed(0)
    first = once(3)
    torch.manual_seed(1)
    assert torch.equal(once(3), first)
    assert name == "inverse_dynamics" or not torch.equal(once(4), first)


@each_planner
def test_a_row_is_planned_the_same_in_any_company(make, name):
    def plan(rows: list[int]) -> Tensor:
        state = {"x": torch.tensor([[0.0, 0.0], [0.1, 0.1], [-0.1, 0.0]])[rows]}
        return make(name).plan(Point(), state, LastStepL1(GOALS[rows]), generator(), bounds=BOUNDS).actions

    together = plan([0, 1, 2])
    torch.testing.assert_close(plan([2, 0, 1]), together[[2, 0, 1]], atol=1e-6, rtol=0)
    for row in range(3):
        torch.testing.assert_close(plan([row])[0], together[row], atol=1e-6, rtol=0)


@each_planner
def test_leaves_its_inputs_alone(make, name):
    state, warm = {"x": torch.zeros(3, 2)}, torch.full((3, 3, 4), 0.05)
    make(name).plan(Point(), state, LastStepL1(GOALS), generator(), bounds=BOUNDS, warm_start=warm)
    assert (state["x"] == 0).all() and (warm == 0.05).all()


@pytest.mark.fault("P1")
@each_search
def test_nan_energies_are_worst_not_contagious(make, name):
    plan = make(name).plan(Flaky(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS)
    assert plan.actions.isfinite().all() and not plan.cost.isnan().any()
    reached = plan.actions[:, :, :2].sum(1)
    torch.testing.assert_close(reached[[0, 2]], GOALS[[0, 2], 0], atol=0.03, rtol=0)


@pytest.mark.fault("P1")
@each_planner
def test_where_every_energy_is_nan_the_warm_start_stands(make, name):
    warm = torch.full((3, 3, 4), 0.05)
    plan = make(name).plan(Blind(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS, warm_start=warm)
    torch.testing.assert_close(plan.actions, BOUNDS.clip(warm))
    assert (plan.cost == torch.inf).all()


@each_search
def test_a_warm_start_helps_where_the_budget_is_spent(make, name):
    best = torch.zeros(3, 3, 4)
    best[..., :2] = GOALS / 3
    late = {"deadline": 0.0, "bounds": BOUNDS}
    plan = make(name).plan(Point(), START, LastStepL1(GOALS), generator(), warm_start=best, **late)
    cold = make(name).plan(Point(), START, LastStepL1(GOALS), generator(), **late)
    assert (plan.cost < 1e-6).all() and (cold.cost > 0.02).all()
    full = make(name).plan(Point(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS)
    assert plan.model_steps < full.model_steps


@each_planner
def test_one_step_ahead_is_planned_too(make, name):
    goals = points((0.05, -0.02), (-0.05, 0.0), (0.07, 0.09))
    plan = make(name, horizon=1).plan(Point(), START, LastStepL1(goals), generator(), bounds=BOUNDS)
    assert plan.actions.shape == (3, 1, 4)
    torch.testing.assert_close(plan.actions[:, 0, :2], goals[:, 0], atol=0.01, rtol=0)


@each_search
@pytest.mark.parametrize("steps", ["sum", "min"])
def test_goals_that_read_every_step_are_planned_for(make, name, steps):
    goal = GoalConfig("l2", steps)(GOALS)
    plan = make(name).plan(Point(), START, goal, generator(), bounds=BOUNDS)
    way = plan.actions[..., :2].cumsum(1)  # (B, H, 2)
    left = (way - GOALS).norm(dim=-1)
    torch.testing.assert_close(plan.cost, left.sum(1) if steps == "sum" else left.amin(1), atol=1e-5, rtol=1e-4)
    assert (left.amin(1) < 0.04).all()


class Slow(Point):
    """Takes a tick for every step, however many rows it has."""

    def __init__(self):
        super().__init__()
        self.ticks, self.rows = 0, 0

    def step(self, state, action, generator=None) -> Step:
        self.ticks, self.rows = self.ticks + 1, self.rows + len(action)
        return super().step(state, action)


@pytest.fixture
def slow(monkeypatch):
    world = Slow()
    monkeypatch.setattr(f"{PACKAGE}.base.time", SimpleNamespace(monotonic=lambda: world.ticks))
    return world


@each_search
def test_no_iteration_starts_after_the_deadline(make, name, slow):
    planner = make(name, iterations=500, chunk=200)
    plan = planner.plan(slow, START, LastStepL1(GOALS), generator(), bounds=BOUNDS, deadline=30)
    assert 30 <= slow.ticks < 33  # an iteration, and what is left of another, take a tick for each step ahead
    doing_nothing = GOALS[:, 0].abs().mean(-1)
    assert (plan.cost < doing_nothing / 2).all()


@each_search
@pytest.mark.parametrize("deadline", [1, 5, 17, 40])
def test_no_chunk_starts_after_the_deadline(make, name, slow, deadline):
    """An iteration takes 39 ticks, or 9 of `gradient`: the deadline passes within one, after some of its chunks."""
    planner = make(name, chunk=3 if name == "gradient" else 10)
    goal = LastStepL1(GOALS)
    plan = planner.plan(slow, START, goal, generator(), bounds=BOUNDS, deadline=deadline)
    assert deadline <= slow.ticks < deadline + 3  # no more than what is left of a chunk
    steps = slow.rows // 3
    assert plan.model_steps == (3 + 3 * (steps - 3) if name == "gradient" else steps)
    assert (BOUNDS.project(plan.actions) == plan.actions).all()
    torch.testing.assert_close(plan.cost, (plan.actions[:, :, :2].sum(1) - GOALS[:, 0]).abs().mean(-1))
    assert (plan.cost <= GOALS[:, 0].abs().mean(-1)).all()  # what it started from was among the first
    if deadline == 40:
        assert (plan.cost < GOALS[:, 0].abs().mean(-1)).all()
    assert plan.elites is None or plan.rest().isfinite().all()


@each_search
@pytest.mark.parametrize("steps", ["last", "sum"])
def test_chunks_of_one_that_are_cut_short_are_enough(make, name, steps, slow):
    """Fewer candidates than elites have been seen; the goal reads all steps."""
    planner, goal = make(name, chunk=1), GoalConfig("l2", steps)(GOALS)
    plan = planner.plan(slow, START, goal, generator(), bounds=BOUNDS, deadline=8)
    assert slow.ticks < 8 + 3 and plan.actions.shape == (3, 3, 4)
    left = (plan.actions[..., :2].cumsum(1) - GOALS).norm(dim=-1)
    torch.testing.assert_close(plan.cost, left.sum(1) if steps == "sum" else left[:, -1])


@each_planner
def test_a_deadline_that_is_over_at_once_leaves_one_candidate_and_a_finite_answer(make, name, slow):
    warm = torch.full((3, 3, 4), 0.05)
    plan = make(name, chunk=10).plan(
        slow, START, LastStepL1(GOALS), generator(), bounds=BOUNDS, warm_start=warm, deadline=0
    )
    assert slow.ticks == plan.model_steps == 3 and plan.cost.isfinite().all()
    assert name == "inverse_dynamics" or torch.equal(plan.actions, BOUNDS.project(warm))


@each_planner
def test_a_deadline_that_does_not_pass_changes_nothing(make, name):
    plans = [
        make(name).plan(Point(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS, deadline=deadline)
        for deadline in (None, float("inf"))
    ]
    assert torch.equal(plans[0].actions, plans[1].actions) and torch.equal(plans[0].cost, plans[1].cost)
    assert plans[0].model_steps == plans[1].model_steps


def test_the_clock_is_read_when_the_result_is_there(monkeypatch):
    """As that of a GPU, which is at work long after the call has returned. Without a deadline nobody waits for it."""
    clock = SimpleNamespace(now=0, monotonic=lambda: clock.now)

    class Pending:
        ndim = 2

        def __getitem__(self, at):
            return self

        def item(self):
            clock.now = 9

    monkeypatch.setattr(f"{PACKAGE}.base.time", clock)
    assert not late(None, Pending()) and clock.now == 0
    assert not late(5) and late(5, Pending())


@pytest.mark.parametrize("iterations", [0, 2])
def test_cem_does_not_move_its_mean_to_a_handful_of_candidates_that_the_deadline_left(make, slow, iterations):
    """The answer is the mean after whole iterations: zeros where there was none."""
    own = {"chunk": 1, "keep_best": False, "samples": 30, "elites": 5}
    slow.ticks = -3 * (30 * iterations + 5)
    plan = make("cem", **own).plan(slow, START, LastStepL1(GOALS), generator(), bounds=BOUNDS, deadline=0)
    whole = torch.zeros(3, 3, 4)
    if iterations:
        whole = (
            make("cem", **own, iterations=iterations)
            .plan(Point(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS)
            .actions
        )
    torch.testing.assert_close(plan.actions, whole)
    assert plan.model_steps == 3 * (30 * iterations + 5 + 1)


def test_cem_that_must_answer_with_its_mean_imagines_it_after_the_deadline_too(make, slow):
    planner = make("cem", chunk=10, keep_best=False)
    plan = planner.plan(slow, START, LastStepL1(GOALS), generator(), bounds=BOUNDS, deadline=20)
    assert slow.ticks == 21 + 3 and plan.model_steps == slow.rows // 3 == 3 * (70 + 1)
    torch.testing.assert_close(plan.cost, (plan.actions[:, :, :2].sum(1) - GOALS[:, 0]).abs().mean(-1))


@each_planner
def test_model_steps_are_those_that_were_imagined(make, name):
    class Counting(Point):
        rows = 0

        def step(self, state, action, generator=None) -> Step:
            self.rows += len(action)
            return super().step(state, action)

    world = Counting()
    plan = make(name).plan(world, START, LastStepL1(GOALS), generator(), bounds=BOUNDS)
    assert world.rows % 3 == 0
    backward = 2 * 8 * 3 * 40 if name == "gradient" else 0  # twice what went forward: restarts, horizon, iterations
    assert plan.model_steps == world.rows // 3 + backward


def test_shift_drops_what_was_done():
    actions = torch.arange(6.0).reshape(1, 3, 2)
    assert torch.equal(shift(actions), torch.tensor([[[2.0, 3.0], [4.0, 5.0], [0.0, 0.0]]]))


def test_bounds_refuse_a_crossed_box():
    with pytest.raises(ValueError, match="low ≤ high"):
        Bounds(torch.ones(2), torch.zeros(2))


def test_rest_is_what_is_left_of_the_plan_or_of_its_elites():
    actions = torch.arange(6.0).reshape(1, 3, 2)
    assert torch.equal(Plan(actions, torch.zeros(1), 1).rest(), shift(actions))
    many = torch.stack((actions, 2 * actions), dim=1)
    assert torch.equal(Plan(actions, torch.zeros(1), 1, elites=many).rest(2)[:, 1], shift(2 * actions, 2))


def test_icem_begins_with_all_the_elites_that_it_is_given(make):
    """Its own first guess is useless here, and there is no time to search: only a kept elite can be the answer."""
    best = torch.zeros(3, 3, 4)
    best[..., :2] = GOALS / 3
    elites = torch.stack((torch.zeros_like(best), best, best), dim=1)  # (B, K, H, A)
    plan = make("icem").plan(
        Point(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS, warm_start=elites, deadline=0.0
    )
    assert (plan.cost > 0.02).all()  # the first one stands where nothing was tried
    plan = make("icem", iterations=1, init_std=1e-6).plan(
        Point(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS, warm_start=elites
    )
    torch.testing.assert_close(plan.actions, best)
    assert plan.elites.shape == (3, 4, 3, 4) and torch.equal(plan.elites[:, 0], plan.actions)


def test_icem_takes_fewer_samples_as_it_goes_on(make):
    plan = make("icem", samples=100, elites=10, iterations=9, decay=1.25).plan(
        Point(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS
    )
    assert plan.model_steps == 3 * (1 + 100 + 80 + 64 + 51 + 41 + 33 + 26 + 21 + 20)


@pytest.mark.parametrize(("exponent", "horizon"), [(0.0, 8), (1.0, 2), (2.0, 3), (2.0, 30)])
def test_coloured_noise_has_unit_spread_and_is_smoother_the_higher_its_exponent(exponent, horizon):
    noise = coloured_noise(4000, torch.zeros(1, horizon, 2), exponent, generator())
    torch.testing.assert_close(noise.std(0), torch.ones(horizon, 2), atol=0.06, rtol=0)
    following = (noise[:, 1:] * noise[:, :-1]).mean()
    expected = {0.0: 0.0, 1.0: 0.5, 2.0: 0.9}[exponent]
    assert abs(following - expected) < 0.12


def test_mppi_weighs_by_cost_in_units_of_its_spread(make):
    cold = make("mppi", temperature=1e-3).plan(Point(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS)
    hot = make("mppi", temperature=1e3, iterations=1).plan(
        Point(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS
    )
    assert (cold.cost < 0.01).all() and (hot.cost > cold.cost).all()

    class Scaled(Point):
        def features(self, state) -> Tensor:
            return super().features(state) * 1000

    same = make("mppi").plan(Point(), START, LastStepL1(GOALS), generator(), bounds=BOUNDS)
    large = make("mppi").plan(Scaled(), START, LastStepL1(GOALS * 1000), generator(), bounds=BOUNDS)
    torch.testing.assert_close(large.actions, same.actions, atol=1e-3, rtol=0)


def test_gradient_wants_a_world_that_can_be_differentiated(make):
    class Simulator(Point):
        def step(self, state, action, generator=None) -> Step:
            return super().step(state, action.detach())

    class Trained(Simulator):
        """As it, with a weight that is still to be learned."""

        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(()))

        def features(self, state) -> Tensor:
            return super().features(state) * self.gain

    for world in (Simulator(), Trained()):
        with pytest.raises(ConfigError, match="differentiated"):
            make("gradient").plan(world, START, LastStepL1(GOALS), generator(), bounds=BOUNDS)


def test_gradient_settles(make):
    plan = make("gradient").plan(Point(), START, LastStepDistance(GOALS), generator(), bounds=BOUNDS)
    assert (plan.cost < 6e-4).all()  # with steps of constant length it goes to and fro around the goal


def test_gradient_leaves_the_weights_of_the_world_without_gradients(make):
    class Learned(Point):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(()))

        def features(self, state) -> Tensor:
            return super().features(state) * self.gain

    world = Learned()
    make("gradient").plan(world, START, LastStepL1(GOALS), generator(), bounds=BOUNDS)
    assert world.gain.grad is None


def test_halving_is_cem_where_nothing_is_shared_or_dropped(make):
    goals = points((0.05, -0.02), (-0.05, 0.0), (0.07, 0.09))
    alike = {"horizon": 1, "samples": 64, "children": 1, "keep": 1.0}
    one, other = (
        make(name, **alike).plan(Point(), START, LastStepL1(goals), generator(), bounds=BOUNDS)
        for name in ("cem", "halving_cem")
    )
    assert torch.equal(one.actions, other.actions) and one.model_steps == other.model_steps


@pytest.mark.parametrize(
    ("children", "keep", "widths"), [(2, 1.0, [16, 32, 64]), (2, 0.5, [16, 16, 16]), (1, 0.5, [16, 8, 4])]
)
def test_halving_imagines_shared_steps_once_and_drops_bad_beginnings(make, children, keep, widths):
    taken = []

    class Seen(Point):
        def step(self, state, action, generator=None) -> Step:
            taken.append(action[:, :2])
            return super().step(state, action)

    start, goal = {"x": torch.zeros(1, 2)}, LastStepDistance(GOALS[:1])
    planner = make("halving_cem", samples=16, children=children, keep=keep, iterations=1, elites=4, chunk=200)
    plan = planner.plan(Seen(), start, goal, generator(), bounds=BOUNDS)
    assert [len(actions) for actions in taken[:3]] == widths and plan.model_steps == sum(widths) + 3
    distribution = (torch.zeros(1, 3, 4), BOUNDS.scale.expand(1, 3, 4))
    last, cost, _ = planner._grow(Point(), start, goal, generator(), BOUNDS, *distribution)
    torch.testing.assert_close(cost, (last[..., :2].sum(2) - GOALS[:1]).norm(dim=-1))  # exact, not that of a beginning
    assert (last[:, 0] == 0).all()  # the mean is never dropped
    kept = {tuple(first) for first in last[0, :, 0, :2].tolist()}
    nearest = (taken[0] - GOALS[0]).norm(dim=-1).argsort()
    assert len(kept) > 12 if keep == 1 else len(kept) <= 8  # some are the same corner of the box
    assert tuple(taken[0][nearest[0]].tolist()) in kept
    assert keep == 1 or tuple(taken[0][nearest[-1]].tolist()) not in kept


def test_what_all_candidates_share_takes_no_memory(make):
    pointers = []

    class Large(Point):
        def step(self, state, action, generator=None) -> Step:
            pointers.append(state["past"].data_ptr())
            return Step({**state, **super().step(state, action).state})

    start = {"x": torch.zeros(1, 2), "past": torch.zeros(1, 5)}
    for name in NAMES:
        pointers.clear()
        make(name).plan(Large(), start, LastStepL1(GOALS[:1]), generator(), bounds=BOUNDS)
        assert pointers[0] == start["past"].data_ptr(), name


def test_noise_of_a_shared_beginning_is_that_of_cem(make):
    planner = make("halving_cem", samples=1500, children=2, correlation=0.8, horizon=2)
    wide = Bounds(torch.full((4,), -99.0), torch.full((4,), 99.0))
    plans, _, _ = planner._grow(
        *(Point(), {"x": torch.zeros(1, 2)}, LastStepL1(GOALS[:1]), generator(), wide),
        *(torch.zeros(1, 2, 4), torch.ones(1, 2, 4)),
    )
    torch.testing.assert_close(plans[0].std(0), torch.ones(2, 4), atol=0.06, rtol=0)
    assert abs((plans[0, :, 0] * plans[0, :, 1]).mean() - 0.8) < 0.05


def test_inverse_dynamics_answers_with_the_action_to_the_goal_and_says_when_it_cannot(make):
    with pytest.raises(ConfigError, match="one image"):
        make("inverse_dynamics").plan(Point(), START, lambda future: future, generator(), bounds=BOUNDS)
    with pytest.raises(ConfigError, match="weights"):
        make("inverse_dynamics", weights="")


def reference_cem(world, state, goal, bounds, momentum, momentum_gripper, samples, iterations, elites, seed):
    """The planner of V-JEPA 2-AC read plainly, for one row: x, y, z and gripper of each step are drawn, samples are
    imagined one after another, the elites' mean and spread are blended in, and the mean that is left is the answer."""
    noise, horizon, axes = generator(seed), 3, [0, 1, 2, 6]
    maxnorm, pins = float(bounds.high[0]), {s.axis: s.values for s in bounds.schedules}
    mean, std = torch.zeros(horizon, 4), torch.tensor([maxnorm] * 3 + [1.0]).repeat(horizon, 1)
    for _ in range(iterations):
        draws = torch.randn(samples, horizon, 7, generator=noise)
        costs, trajectories = [], []
        for s in range(samples):
            trajectory, imagined = [], state
            for h in range(horizon):
                action = draws[s, h, axes] * std[h] + mean[h]
                action[:3] = action[:3].clip(-maxnorm, maxnorm)
                action[3] = action[3].clip(-0.75, 0.75)
                for place, axis in enumerate(axes):
                    if axis in pins and (forced := pins[axis][min(h, len(pins[axis]) - 1)]) is not None:
                        action[place] = forced
                trajectory.append(action)
                full = torch.cat((action[:3], torch.zeros(3), action[3:]))
                imagined = world.step(imagined, full[None]).state
            trajectories.append(torch.stack(trajectory))
            costs.append((world.features(imagined) - goal).abs().mean())
        best = torch.stack(trajectories)[torch.stack(costs).topk(elites, largest=False).indices]
        for part, (m, s) in ((slice(0, 3), momentum), (slice(3, 4), momentum_gripper)):
            mean[:, part] = (1 - m) * best.mean(0)[:, part] + m * mean[:, part]
            std[:, part] = (1 - s) * best.std(0)[:, part] + s * std[:, part]
    gripper = torch.where(mean[:, 3:].abs() < 0.25, 0.0, mean[:, 3:])
    return torch.cat((mean[:, :3], torch.zeros(horizon, 3), gripper), dim=-1)


@pytest.mark.parametrize("name", ["vjepa2_ac", "default"])
def test_presets_at_the_effort_of_the_reference_have_it(name):
    found = load_config(PlanConfig, "plan", name, ["world=w", "out=o"]).planner
    assert (found.horizon, found.samples, found.iterations, found.elites) == (2, 400, 10, 10)


@pytest.mark.parametrize(("momenta", "gripper"), [((0.15, 0.15), (0.15, 0.15)), ((0.25, 0.95), (0.15, 0.15))])
@pytest.mark.parametrize("close_from", [-1, 1])
@pytest.mark.parametrize("pins", [{}, {1: 0.01}])
def test_cem_of_the_preset_of_the_reference_is_the_reference(close_from, pins, momenta, gripper):
    class Arm(WorldModel):
        """Turns what it is told into four features, not evenly and not in a straight line."""

        def step(self, state, action, generator=None) -> Step:
            mixed = action @ torch.randn(7, 4, generator=torch.Generator().manual_seed(7))
            return Step({"x": torch.tanh(state["x"] + mixed)})

        def features(self, state) -> Tensor:
            return state["x"][:, None]

    bounds = vjepa2_ac_bounds(0.05, pins, close_from)
    start, goals = torch.randn(2, 4, generator=generator(1)), torch.randn(2, 1, 4, generator=generator(2))
    effort = {"samples": 40, "iterations": 5, "elites": 10}
    settings = load_config(PlanConfig, "plan", "vjepa2_ac", ["world=w", "out=o"]).planner
    if momenta != (0.15, 0.15):  # those of its function, not of what calls it
        settings = replace(settings, momentum_mean=momenta[0], momentum_std=momenta[1])
    ours = build(replace(settings, horizon=3, **effort)).plan(
        Arm(), {"x": start}, LastStepL1(goals), generator(3), bounds=bounds, warm_start=torch.ones(2, 3, 7)
    )
    for row in range(2):
        plain = reference_cem(
            *(Arm(), {"x": start[row : row + 1]}, goals[row : row + 1], bounds, momenta, gripper),
            **effort,
            seed=3,
        )
        # The reference blends what it forces with its first mean of 0; ours is the forced value itself.
        expected = bounds.project(plain)
        torch.testing.assert_close(ours.actions[row], expected, atol=1e-6, rtol=0)
        for axis in pins:
            torch.testing.assert_close(plain[:, axis], expected[:, axis], atol=0.25**5, rtol=0)
    assert (ours.actions[:, :, 3:6] == 0).all() and ours.actions[..., :3].abs().max() > 0.01
    assert ours.model_steps == 5 * 40 * 3 + 3


def test_cem_refuses_settings_it_cannot_refit_from(make):
    with pytest.raises(ValueError, match="elites"):
        make("cem", samples=4, elites=5)
    with pytest.raises(ConfigError, match="elitse"):
        from_dict(importlib.import_module(f"{PACKAGE}.cem").Config, {"elitse": 5}, "cem")
    with pytest.raises(ConfigError, match="keep_best"):
        make("cem", gripper_deadzone=0.25)


@each_planner
def test_a_correlation_that_noise_cannot_have_is_one_line(make, name):
    if "correlation" in importlib.import_module(f"{PACKAGE}.{name}").Config.__dataclass_fields__:
        with pytest.raises(ConfigError, match=f"{name} needs a correlation from -1 to 1, got 1.5"):
            make(name, correlation=1.5)


def _future(features: Tensor):
    from jepa.worlds.base import Future

    return Future(features, torch.zeros(1))
