"""The closed loop: reaches goals, mixes no episodes, keeps its batch size out of the result, peeks at no pose."""

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa.planning.bench.rows import do_nothing, random_actions
from jepa.planning.bench.simulator import SimulatorWorld
from jepa.planning.goals import LastStepDistance, LastStepL1, LastStepPush
from jepa.planning.mpc import Replan, View, look, run_episodes
from jepa.planning.planners.base import Bounds, Plan
from jepa.planning.planners.cem import CEM, Config
from jepa.worlds.base import Future, State, Step, WorldModel, score

BOUNDS = Bounds(torch.full((7,), -0.06), torch.full((7,), 0.06), frozen=(3, 4, 5))
STARTS = [np.array([0.0, 0.0, 0.0]), np.array([0.2, -0.1, 0.1]), np.array([-0.2, 0.0, 0.05])]
GOALS = [np.array([0.2, 0.1, 0.0]), np.array([0.0, 0.1, 0.1]), np.array([0.0, -0.2, 0.1])]


class PointEnv:
    """A point in space, photographed as a bright pixel; it answers actions 10 % short."""

    def __init__(self):
        self.x = np.zeros(3)

    def set_state(self, state):
        self.x = state.copy()

    def get_state(self):
        return self.x.copy()

    def advance(self, action):
        self.x = self.x + 0.9 * action[:3]

    def ee_pose(self):
        return np.append(self.x, [0, 0, 0, 0])

    def render_at(self, size):
        image = np.zeros((size, size, 3), np.uint8)
        row, column = np.clip((self.x[:2] + 0.4) / 0.8 * size, 0, size - 1).astype(int)
        image[row, column] = 255
        return image


class Point(WorldModel):
    """Believes that actions do what they say; remembers what it was told."""

    def __init__(self):
        super().__init__()
        self.told: list[tuple] = []

    def observe(self, state, tokens, proprio=None, actions=None) -> State:
        self.told.append((state, tokens, proprio, actions))
        return {"x": tokens[:, -1, 0]}

    def step(self, state, action, generator=None) -> Step:
        return Step({"x": state["x"] + action[:, :3]})

    def features(self, state) -> Tensor:
        return state["x"][:, None]


def sense(view: View) -> Tensor:
    return view.sim[:, None, None].float()


def replan(rows=(0, 1, 2), batch=8, goals=None, **kwargs) -> Replan:
    goals = goals or look(PointEnv(), [GOALS[r] for r in rows], None)
    planner = kwargs.pop("planner", CEM(Config(horizon=2, samples=24, iterations=3, elites=4)))
    world = kwargs.pop("world", Point())
    return Replan(world, sense, planner, LastStepL1, BOUNDS, goals, seed=0, batch=batch)


def run(controller, rows=(0, 1, 2), decisions=6, size=None):
    distances = [lambda env, g=GOALS[r]: np.linalg.norm(env.x - g) for r in rows]
    starts = [STARTS[r] for r in rows]
    return run_episodes(PointEnv(), starts, distances, controller, decisions=decisions, size=size)


def test_reaches_the_goals_and_records_the_way():
    episodes = run(replan(), size=16)
    for episode, start, goal in zip(episodes, STARTS, GOALS, strict=True):
        assert len(episode.distance) == 7 and episode.distance[-1] < 0.03
        assert episode.distance[0] == pytest.approx(np.linalg.norm(goal - start))
        assert episode.actions.shape == (6, 7) and np.abs(episode.actions).max() <= 0.06 + 1e-7
        assert (episode.actions[:, 3:6] == 0).all()
        assert episode.frames.shape == (7, 16, 16, 3) and episode.frames.dtype == np.uint8
        assert episode.model_steps == 24 * 2 * 3 + 2 and episode.seconds > 0
    assert not np.array_equal(episodes[0].frames[0], episodes[0].frames[-1])


@pytest.mark.parametrize("batch", [1, 2])
def test_the_batch_size_changes_nothing(batch):
    for one, other in zip(run(replan()), run(replan(batch=batch)), strict=True):
        np.testing.assert_allclose(one.actions, other.actions, atol=1e-6)


def test_an_episode_does_not_depend_on_its_company():
    together = run(replan())
    alone = run(replan(rows=(2,)), rows=(2,))
    swapped = run(replan(rows=(2, 0)), rows=(2, 0))
    np.testing.assert_allclose(alone[0].actions, together[2].actions, atol=1e-6)
    np.testing.assert_allclose(swapped[1].actions, together[0].actions, atol=1e-6)


def test_the_goal_is_an_image_its_pose_is_never_read():
    goals = look(PointEnv(), GOALS, None)
    blind = View(goals.frames, torch.full_like(goals.pose, torch.nan), goals.sim)
    world = Point()
    for one, other in zip(run(replan()), run(replan(goals=blind, world=world)), strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
    assert all(proprio.isfinite().all() for _, _, proprio, _ in world.told)


def test_the_world_is_told_what_was_done_and_the_planner_gets_the_rest_of_its_plan():
    seen = []

    class Spy:
        def plan(self, world, state, goal, generator, *, bounds, warm_start=None, deadline=None):
            seen.append(warm_start)
            actions = torch.arange(3.0).reshape(1, 3, 1).expand(3, 3, 7) * 0.01 + 0.01
            return Plan(actions, torch.zeros(3), 1)

    world = Point()
    run(replan(planner=Spy(), world=world), decisions=2)
    _, first, second = world.told  # the goal image, then each decision
    assert first[0] is None and first[3] is None
    assert second[0] is not None and (second[3] == 0.01).all() and second[3].shape == (3, 1, 7)
    assert seen[0] is None
    torch.testing.assert_close(seen[1][0, :, 0], torch.tensor([0.02, 0.03, 0.0]))


def test_floors():
    still = run(do_nothing(BOUNDS))
    assert all(e.distance == [e.distance[0]] * 7 and e.model_steps == 0 for e in still)
    moving, fewer, other = run(random_actions(BOUNDS, 0)), None, run(random_actions(BOUNDS, 1))
    actions = np.stack([e.actions for e in moving])
    free = actions[..., [0, 1, 2, 6]]
    assert (actions[..., 3:6] == 0).all() and np.abs(free).max() <= 0.06 and np.abs(free).max() > 0.05
    assert abs(free.mean()) < 0.01 and not np.array_equal(actions[0], actions[1])
    fewer = run(random_actions(BOUNDS, 0), rows=(0,))
    np.testing.assert_array_equal(fewer[0].actions, moving[0].actions)
    assert not np.array_equal(other[0].actions, moving[0].actions)


def test_simulator_world_is_the_simulator():
    env = PointEnv()
    world = SimulatorWorld(env, lambda env: env.x[None])
    state = world.observe(None, look(env, STARTS, None).sim[:, None, None])
    before = {key: value.clone() for key, value in state.items()}
    candidates = torch.rand(3, 5, 2, 7, generator=torch.Generator().manual_seed(0)) - 0.5
    goal = LastStepDistance(torch.tensor(np.stack(GOALS))[:, None])
    cost = score(world, state, candidates, goal, chunk=2)
    ends = torch.tensor(np.stack(STARTS))[:, None] + 0.9 * candidates[..., :3].double().sum(2)
    torch.testing.assert_close(cost, (ends - torch.tensor(np.stack(GOALS))[:, None]).norm(dim=-1))
    assert all(torch.equal(state[key], before[key]) for key in before)


def test_push_cost_is_least_behind_the_object_and_falls_with_its_distance():
    target = torch.tensor([[[0.2, 0.0, 9.0, 9.0, 9.0]]])  # where the hand is at the goal is not read
    cost = LastStepPush(target)

    def at(item: float, hand: tuple[float, float]) -> float:
        return float(cost(Future(torch.tensor([item, 0.0, *hand, 0.03]).reshape(1, 1, 1, 1, 5), target)))

    assert at(0.0, (-0.045, 0.0)) == pytest.approx(0.2)
    assert at(0.0, (-0.045, 0.0)) < at(0.0, (0.045, 0.0)) and at(0.1, (0.055, 0.0)) < at(0.0, (-0.045, 0.0))
    assert np.isfinite(at(0.2, (0.0, 0.0)))
