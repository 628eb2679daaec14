"""Rolling out and scoring: candidates stay apart, chunks change nothing, states are never written into."""

import pytest
import torch
from torch import Tensor

from jepa.worlds.base import Future, State, Step, WorldModel, branch, rollout, score

torch.set_num_threads(1)


class Drift(WorldModel):
    """x ← 0.9·x + W·a, rewarded by -|x|; its noise, if any, comes from the generator."""

    def __init__(self, noise: float = 0.0, rewarded: bool = True):
        super().__init__()
        self.weight = torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.1, 0.1]])
        self.noise, self.rewarded = noise, rewarded

    def observe(self, state, tokens, proprio=None, actions=None) -> State:
        return {"x": tokens[:, -1, 0], "scene": tokens[:, :1]}

    def step(self, state, action, generator=None) -> Step:
        x = 0.9 * state["x"] + action @ self.weight.T
        x = x + self.noise * torch.randn(x.shape, generator=generator)
        return Step({**state, "x": x}, -x.abs().sum(-1) if self.rewarded else None)

    def features(self, state) -> Tensor:
        return state["x"][:, None]


def distance(future: Future) -> Tensor:
    return future.features[:, :, -1, 0].norm(dim=-1)


@pytest.fixture
def start() -> State:
    return Drift().observe(None, torch.randn(3, 1, 1, 3, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def actions() -> Tensor:
    return torch.randn(3, 7, 4, 2, generator=torch.Generator().manual_seed(2))


def test_rollout_equals_stepping_each_candidate_alone(start, actions):
    world = Drift()
    future = rollout(world, start, actions)
    assert future.features.shape == (3, 7, 4, 1, 3)
    assert future.reward.shape == (3, 7, 4) and future.cont is None
    for b in range(3):
        for s in range(7):
            state = {key: value[b : b + 1] for key, value in start.items()}
            for h in range(4):
                imagined = world.step(state, actions[b : b + 1, s, h])
                state = imagined.state
                torch.testing.assert_close(future.features[b, s, h], world.features(state)[0])
                torch.testing.assert_close(future.reward[b, s, h], imagined.reward[0])


def test_last_only_keeps_the_last_step(start, actions):
    whole, last = rollout(Drift(), start, actions), rollout(Drift(), start, actions, last_only=True)
    assert last.features.shape == (3, 7, 1, 1, 3)
    assert torch.equal(last.features[:, :, 0], whole.features[:, :, -1])


def test_a_world_without_reward_gives_none(start, actions):
    assert rollout(Drift(rewarded=False), start, actions).reward is None


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunked_score_equals_the_whole(start, actions, chunk):
    whole = distance(rollout(Drift(), start, actions))
    torch.testing.assert_close(score(Drift(), start, actions, distance, chunk=chunk), whole)


def test_goal_that_reads_the_path_gets_the_path(start, actions):
    def path_length(future: Future) -> Tensor:
        return future.features.diff(dim=2).norm(dim=-1).sum(dim=(2, 3))

    assert (score(Drift(), start, actions, path_length) > 0).all()


def test_branch_keeps_copies_of_a_row_together(start):
    branched = branch(start, 2)
    assert branched["scene"].shape == (6, 1, 1, 3)
    assert torch.equal(branched["x"][2], start["x"][1]) and torch.equal(branched["x"][3], start["x"][1])


def test_copies_of_one_row_take_no_memory(start):
    one = {key: value[:1] for key, value in start.items()}
    assert all(v.data_ptr() == one[k].data_ptr() and len(v) == 5 for k, v in branch(one, 5).items())


def test_randomness_comes_from_the_generator_only(start, actions):
    def once(seed: int) -> Tensor:
        return score(Drift(0.1), start, actions, distance, torch.Generator().manual_seed(seed))

    torch.manual_seed(0)
    first = once(5)
    torch.manual_seed(1)
    assert torch.equal(once(5), first) and not torch.equal(once(6), first)


def test_rollout_leaves_the_state_alone_and_lets_gradients_through(start, actions):
    before = {key: value.clone() for key, value in start.items()}
    actions = actions.requires_grad_()
    score(Drift(), start, actions, distance).sum().backward()
    assert all(torch.equal(start[key], before[key]) for key in before)
    assert (actions.grad.abs().sum(dim=(2, 3)) > 0).all()
