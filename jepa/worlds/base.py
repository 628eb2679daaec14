"""The contract of a world model, and the two functions that imagine with any of them.

A world model folds evidence into a `State`, imagines one step, and says what goals and probes read of a
state. Rolling out and scoring candidates is written here once, for every family and every planner.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

State = dict[str, Tensor]
"""What a world knows: named tensors with leading dim B. Immutable by convention: nobody writes into one."""


@dataclass(frozen=True)
class WorldSpec:
    """What data and encoder decide: widths of tokens, actions and states, and the token grid (rows, columns)."""

    embed_dim: int
    action_dim: int
    state_dim: int
    grid: tuple[int, int]


@dataclass(frozen=True)
class Sequence:
    """A batch of encoded episodes pieces: what every world trains on.

    tokens: (B, T, N, D). actions: (B, T-1, A), `actions[:, t]` leads from frame t to t+1. states: (B, T, S).
    """

    tokens: Tensor
    actions: Tensor
    states: Tensor

    def to(self, device: torch.device | str) -> "Sequence":
        """The same batch on `device`."""
        return Sequence(self.tokens.to(device), self.actions.to(device), self.states.to(device))


@dataclass(frozen=True)
class Step:
    """One imagined step: the next state and, where the world predicts them, reward (B) and continue (B)."""

    state: State
    reward: Tensor | None = None
    cont: Tensor | None = None


@dataclass(frozen=True)
class Future:
    """What S candidate action sequences lead to.

    features: (B, S, H, N, D), or (B, S, 1, N, D) when only the last step was kept. actions: (B, S, H, A).
    reward, cont: (B, S, H), or None where the world does not predict them.
    """

    features: Tensor
    actions: Tensor
    reward: Tensor | None = None
    cont: Tensor | None = None


Goal = Callable[[Future], Tensor]
"""Cost (B, S) of a future, lower is better; one that reads the last step only may say `last_only = True`."""


class WorldModel(nn.Module):
    """p(next state | state, action) on encoded frames; the caller owns the encoder.

    extrinsics: whether in the states that it reads the camera's pose (6) stands behind the robot's. Such a world's
    Config says so too, under the same name, for its training comes before it.
    """

    extrinsics: bool = False

    def observe(
        self,
        state: State | None,
        tokens: Tensor,
        proprio: Tensor | None = None,
        actions: Tensor | None = None,
    ) -> State:
        """Fold evidence into a state; `state=None` starts an episode.

        Args:
            tokens: (B, T, N, D) encoded frames, oldest first.
            proprio: (B, T, S) measured robot state at those frames.
            actions: (B, T, A), `actions[:, t]` led to `tokens[:, t]`; (B, T - 1, A) when `state` is None.
        """
        raise NotImplementedError

    def step(self, state: State, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """Imagine one action (B, A); leaves `state` as it is. Randomness comes from `generator` alone."""
        raise NotImplementedError

    def features(self, state: State) -> Tensor:
        """(B, N, D): what goals, probes and heads read of a state."""
        raise NotImplementedError


def branch(state: State, count: int) -> State:
    """`count` copies of every row: leading dim B becomes B·count, the copies of a row side by side.

    Of a single row they are views: what all candidates share then takes no memory.
    """
    return {key: repeat(value, "b ... -> (b s) ...", s=count) for key, value in state.items()}


def rollout(
    world: WorldModel,
    state: State,
    actions: Tensor,
    generator: torch.Generator | None = None,
    last_only: bool = False,
) -> Future:
    """Imagine every candidate from every row of `state`; differentiable in `actions` where the world is.

    Args:
        actions: (B, S, H, A) with H ≥ 1.
        last_only: keep the features of the last step only, which saves memory.
    """
    rows, count, horizon, _ = actions.shape
    state = branch(state, count)
    features, rewards, conts = [], [], []
    for h in range(horizon):
        imagined = world.step(state, rearrange(actions[:, :, h], "b s a -> (b s) a"), generator)
        state = imagined.state
        rewards.append(imagined.reward)
        conts.append(imagined.cont)
        if not last_only or h == horizon - 1:
            features.append(world.features(state))

    def per_candidate(values: list[Tensor | None]) -> Tensor | None:
        if any(v is None for v in values):
            return None
        return rearrange(torch.stack(values, dim=1), "(b s) h ... -> b s h ...", b=rows)  # type: ignore[arg-type]

    return Future(per_candidate(features), actions, per_candidate(rewards), per_candidate(conts))  # type: ignore[arg-type]


def score(
    world: WorldModel,
    state: State,
    actions: Tensor,
    goal: Goal,
    generator: torch.Generator | None = None,
    chunk: int = 64,
) -> Tensor:
    """Cost (B, S) of candidates (B, S, H, A), `chunk` candidates of every row at a time.

    The chunk bounds memory and changes nothing else, except the order in which a stochastic world draws.
    """
    last_only = getattr(goal, "last_only", False)
    parts = [goal(rollout(world, state, part, generator, last_only)) for part in actions.split(chunk, dim=1)]
    return torch.cat(parts, dim=1)
