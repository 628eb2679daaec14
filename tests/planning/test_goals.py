"""Goals: distances, what they read of the steps, token weights, sets, and sub-goals that take turns."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jepa.config import ConfigError, from_dict
from jepa.planning.goals import AnyOf, FeatureGoal, GoalConfig, LastStepDistance, LastStepL1, SubGoals, SwitchRule
from jepa.worlds.base import Future, State, Step, WorldModel, score

B, S, H, N, D = 2, 3, 4, 5, 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


GOAL = draw(B, N, D, seed=1)
FUTURE = Future(draw(B, S, H, N, D), draw(B, S, H, 2))


def plain(distance: str, steps: str, weights: Tensor | None = None) -> Tensor:
    """The cost (B, S), one number after another."""
    out = torch.zeros(B, S)
    for b in range(B):
        for s in range(S):
            costs = []
            for h in range(H):
                total, mass = 0.0, 0.0
                for n in range(N):
                    x, g = FUTURE.features[b, s, h, n], GOAL[b, n]
                    apart = {
                        "l1": (x - g).abs().mean(),
                        "l2": (x - g).square().sum().sqrt(),
                        "cosine": 1 - x @ g / (x.norm() * g.norm()),
                    }[distance]
                    weight = 1.0 if weights is None else float(weights[b, n])
                    total, mass = total + weight * apart, mass + weight
                costs.append(total / mass)
            out[b, s] = {"last": costs[-1], "sum": sum(costs), "min": min(costs)}[steps]
    return out


@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
@pytest.mark.parametrize("steps", ["last", "sum", "min"])
def test_every_distance_over_every_choice_of_steps(distance, steps):
    weights = draw(B, N, seed=2).abs()
    config = from_dict(GoalConfig, {"distance": distance, "steps": steps}, "goal")
    torch.testing.assert_close(config(GOAL)(FUTURE), plain(distance, steps))
    torch.testing.assert_close(config(GOAL, weights)(FUTURE), plain(distance, steps, weights))
    assert config(GOAL).last_only == (steps == "last")


def test_blurred_features_are_gaussian_sums_over_the_token_grid_and_draw_from_afar():
    goal, seen = draw(1, 16, D, seed=3), draw(1, 1, 1, 16, D, seed=4)
    place = [divmod(n, 4) for n in range(16)]
    apart = torch.zeros(16, D)
    row = torch.tensor([[2.718281828 ** (-0.5 * ((i - j) / 0.8) ** 2) for j in range(4)] for i in range(4)])
    row = row / row.sum(1).max()
    for n, (y, x) in enumerate(place):
        for m, (v, u) in enumerate(place):
            apart[n] += row[y, v] * row[x, u] * (seen[0, 0, 0, m] - goal[0, m])
    cost = GoalConfig(blur=0.8)(goal)(Future(seen, seen.new_zeros(1, 1, 1, 0)))
    torch.testing.assert_close(cost, apart.abs().mean().reshape(1, 1))

    # A spot in an empty scene, the goal three tokens away: coming nearer pays only where features are blurred.
    spots = torch.zeros(1, 3, 1, 16, D)
    for s, n in enumerate((0, 1, 3)):
        spots[0, s, 0, n] = 1.0
    future, goal = Future(spots, spots.new_zeros(1, 3, 1, 0)), spots[:, 2, 0]
    sharp, blurred = GoalConfig()(goal)(future)[0], GoalConfig(blur=1.0)(goal)(future)[0]
    assert sharp[0] == sharp[1] > sharp[2] == 0
    assert blurred[0] > blurred[1] > blurred[2] == 0


def blurred_plainly(features: Tensor, std: float) -> Tensor:
    """Features (..., 16, D) after the blur of a goal without weights, which must not change by a bit."""
    place = torch.arange(4.0)
    kernel = torch.exp(-0.5 * ((place[:, None] - place) / std) ** 2)
    kernel = kernel / kernel.sum(1).amax()
    return torch.einsum("ij,kl,...jld->...ikd", kernel, kernel, features.unflatten(-2, (4, 4))).flatten(-3, -2)


@pytest.mark.parametrize("steps", ["last", "sum"])
def test_without_weights_the_blur_is_what_it_was_to_the_bit(steps):
    goal, seen = draw(B, 16, D, seed=3), draw(B, S, H, 16, D, seed=4)
    imagined = seen[:, :, -1:] if steps == "last" else seen
    apart = (blurred_plainly(imagined, 0.6) - blurred_plainly(goal, 0.6)[:, None, None]).abs().mean((-2, -1))
    cost = GoalConfig(steps=steps, blur=0.6)(goal)(Future(seen, FUTURE.actions))
    assert torch.equal(cost, apart.sum(-1) if steps == "sum" else apart[..., -1])


@pytest.mark.parametrize("distance", ["l1", "l2", "cosine"])
@pytest.mark.parametrize("blur", [0.05, 0.6, 1.5])
def test_a_masked_region_does_not_leak_through_the_blur(distance, blur):
    goal, seen = draw(B, 16, D, seed=3), draw(B, S, H, 16, D, seed=4)
    weights = torch.ones(B, 16)
    weights[0, 5:8], weights[1, :12] = 0.0, 0.0  # a gap, and all but a strip
    elsewhere = torch.where(weights[:, None, None, :, None] > 0, seen, 9.0)
    config = GoalConfig(distance, blur=blur)
    cost = config(goal, weights)(Future(seen, FUTURE.actions))
    assert torch.equal(config(goal, weights)(Future(elsewhere, FUTURE.actions)), cost)
    moved = torch.where(weights[..., None] > 0, goal, -9.0)
    assert torch.equal(config(moved, weights)(Future(seen, FUTURE.actions)), cost)
    assert cost.isfinite().all() and (cost > 0.1).all()
    torch.testing.assert_close(config(goal, 7 * weights)(Future(seen, FUTURE.actions)), cost)
    assert torch.equal(config(goal, weights.bool())(Future(seen, FUTURE.actions)), cost)
    same = config(goal, torch.full((16,), 3.0))(Future(seen, FUTURE.actions))  # all count alike
    torch.testing.assert_close(same, config(goal)(Future(seen, FUTURE.actions)))


def test_what_is_not_masked_is_blurred_by_the_neighbours_that_count():
    """A flat picture stays flat beside a gap, whatever is in it: its blur is an average of what counts."""
    weights = torch.ones(16)
    weights[6] = 0.0
    seen, goal = torch.full((1, 1, 1, 16, 1), 3.0), torch.full((1, 16, 1), 1.0)
    seen[..., 6, :] = 50.0
    apart = 2 * blurred_plainly(torch.ones(16, 1), 0.6)[weights > 0].mean()
    cost = GoalConfig(blur=0.6)(goal, weights)(Future(seen, seen.new_zeros(1, 1, 1, 0)))
    torch.testing.assert_close(cost, apart.reshape(1, 1))


def test_a_blur_that_cannot_be_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="blur is 0"):
        GoalConfig(blur=-1.0)
    with pytest.raises(ConfigError, match="5 are none"):
        GoalConfig(blur=1.0)(GOAL)


def test_the_energy_of_vjepa2_ac_is_the_default_to_the_bit():
    last = FUTURE.features[:, :, -1]
    assert torch.equal(LastStepL1(GOAL)(FUTURE), (last - GOAL[:, None]).abs().mean((-2, -1)))
    assert torch.equal(FeatureGoal(GOAL)(FUTURE), LastStepL1(GOAL)(FUTURE))
    torch.testing.assert_close(LastStepDistance(GOAL)(FUTURE), (last - GOAL[:, None]).norm(dim=-1).mean(-1))


def test_a_masked_region_does_not_count_and_only_ratios_of_weights_do():
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])
    elsewhere = FUTURE.features.clone()
    elsewhere[..., 2:4, :] += 9.0
    goal = GoalConfig()(GOAL, mask)
    assert torch.equal(goal(FUTURE), goal(Future(elsewhere, FUTURE.actions)))
    torch.testing.assert_close(goal(FUTURE), GoalConfig()(GOAL, 7 * mask)(FUTURE))
    kept = Future(FUTURE.features[..., mask.bool(), :], FUTURE.actions)
    torch.testing.assert_close(goal(FUTURE), GoalConfig()(GOAL[:, mask.bool()])(kept))


@pytest.mark.parametrize("weights", [torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0]), torch.zeros(B, N)])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(ConfigError, match="weights"):
        GoalConfig()(GOAL, weights)


@pytest.mark.parametrize("values", [{"distance": "l3"}, {"steps": "first"}])
def test_a_choice_that_is_not_there_is_one_line(values):
    with pytest.raises(ConfigError, match=f"goal.{next(iter(values))} is one of"):
        from_dict(GoalConfig, values, "goal")


class Counter(WorldModel):
    """Adds its action to all features; counts how often they are read."""

    def __init__(self):
        super().__init__()
        self.read = 0

    def step(self, state, action, generator=None) -> Step:
        return Step({"x": state["x"] + action.sum(-1)[:, None, None]})

    def features(self, state: State) -> Tensor:
        self.read += 1
        return state["x"]


@pytest.mark.parametrize("goal", [LastStepL1(GOAL), AnyOf([LastStepL1(GOAL), LastStepDistance(GOAL)])])
def test_last_only_is_the_cost_of_the_whole_future_for_less(goal):
    world, actions = Counter(), FUTURE.actions
    cost = score(world, {"x": draw(B, N, D, seed=3)}, actions, goal)
    assert world.read == 1
    goal.last_only = False
    torch.testing.assert_close(score(world, {"x": draw(B, N, D, seed=3)}, actions, goal), cost)
    assert world.read == 1 + H


def test_a_set_of_goals_costs_what_the_nearest_costs():
    other = draw(B, N, D, seed=4)
    parts = [GoalConfig(steps="min")(GOAL), GoalConfig()(other)]
    goal = AnyOf(parts)
    torch.testing.assert_close(goal(FUTURE), torch.minimum(parts[0](FUTURE), parts[1](FUTURE)))
    assert not goal.last_only and AnyOf([LastStepL1(GOAL), LastStepL1(other)]).last_only
    reached = Future(other[:, None, None], torch.zeros(B, 1, 1, 2))
    assert (AnyOf([LastStepL1(GOAL), LastStepL1(other)])(reached) == 0).all()


def walk(rule: SwitchRule, seen: list[list[float]], stages: int = 3) -> list[list[int]]:
    """Stages (decision, row) as rows see numbers that count up to the sub-goals 1, 2, 3."""
    goals = SubGoals.begin(torch.arange(1.0, stages + 1).reshape(1, stages, 1, 1).repeat(len(seen[0]), 1, 1, 1))
    out = []
    for values in seen:
        goals = goals.next(torch.tensor(values).reshape(-1, 1, 1), LastStepL1, rule)
        out.append(goals.stage.tolist())
        torch.testing.assert_close(goals.current[:, 0, 0], goals.stage + 1.0)
    return out


def test_a_sub_goal_that_is_reached_gives_way_to_the_next_row_by_row():
    seen = [[0.0, 0.95], [0.5, 1.5], [0.95, 1.96], [1.5, 2.9], [1.99, 2.9]]
    assert walk(SwitchRule(threshold=0.1), seen) == [[0, 1], [0, 1], [1, 2], [1, 2], [2, 2]]


def test_patience_is_counted_in_decisions_and_the_last_sub_goal_stays():
    far = [[-9.0]] * 9
    assert walk(SwitchRule(patience=(2, 3)), far) == [[0], [0], [1], [1], [1], [2], [2], [2], [2]]
    assert walk(SwitchRule(patience=(1,)), far[:4]) == [[0], [1], [2], [2]]
    assert walk(SwitchRule(), far) == [[0]] * 9


def test_reaching_a_sub_goal_starts_the_count_anew_and_nan_reaches_nothing():
    seen = [[0.0], [1.0], [1.0], [1.0], [1.0]]
    assert walk(SwitchRule(threshold=0.1, patience=(3,)), seen) == [[0], [1], [1], [1], [2]]
    assert walk(SwitchRule(threshold=0.1), [[float("nan")]] * 2) == [[0], [0]]


def test_cosine_is_that_of_torch():
    expected = 1 - F.cosine_similarity(FUTURE.features[:, :, -1], GOAL[:, None], dim=-1).mean(-1)
    torch.testing.assert_close(GoalConfig("cosine")(GOAL)(FUTURE), expected)
