"""Open-loop figures where they are hard to define: few windows, and episodes in which nothing moves."""

import math

import pytest
import torch

from jepa.encoded import Episodes
from jepa.open_loop import open_loop
from jepa.worlds.base import Step, WorldModel


class Half(WorldModel):
    """Believes that actions, which move every token, do half of what they do."""

    def observe(self, state, tokens, proprio=None, actions=None):
        return {"x": tokens[:, -1]}

    def step(self, state, action, generator=None) -> Step:
        return Step({"x": state["x"] + 0.5 * action.sum(-1)[:, None, None]})

    def features(self, state):
        return state["x"]


def episodes(rows: int, frames: int = 5, moving: bool = True) -> Episodes:
    actions = moving * torch.randn(rows, frames - 1, 2, generator=torch.Generator().manual_seed(0))
    places = torch.cat((torch.zeros(rows, 1), actions.sum(-1).cumsum(1)), dim=1)
    tokens, states = places.flatten()[:, None, None], torch.zeros(rows * frames, 2)
    lengths = torch.full((rows,), frames)
    return Episodes([{"lengths": lengths, "tokens": tokens, "actions": actions.flatten(0, 1), "states": states}])


@pytest.mark.parametrize(("rows", "frames"), [(2, 5), (1, 9), (3, 5), (2, 9)])
def test_shuffled_actions_are_never_a_window_s_own(rows, frames):
    assert open_loop(Half(), episodes(rows, frames))["shuffle@1"] > 1.1


def test_what_is_not_defined_is_nan_and_no_error():
    assert math.isnan(open_loop(Half(), episodes(1))["shuffle@1"])  # there are no other actions
    still = open_loop(Half(), episodes(4, moving=False))
    assert all(math.isnan(figure) for figure in still.values()) and len(still) == 4
