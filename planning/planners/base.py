"""The contract of a planner: from a state, a goal and bounds to a sequence of actions, and nothing else."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from jepa.worlds.base import Goal, State, WorldModel


@dataclass(frozen=True)
class Bounds:
    """The box of actions: low and high (A), in the action's own units; `frozen` axes are held at 0."""

    low: Tensor
    high: Tensor
    frozen: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.low.shape != self.high.shape or self.low.ndim != 1 or bool((self.low > self.high).any()):
            raise ValueError(f"bounds need low ≤ high of one shape (A); got {self.low} and {self.high}")

    @property
    def scale(self) -> Tensor:
        """(A) half the width of the box, 0 on frozen axes: the unit of a planner's exploration noise."""
        return self._thaw((self.high - self.low) / 2)

    def clip(self, actions: Tensor) -> Tensor:
        """Actions (..., A) moved into the box."""
        return self._thaw(torch.minimum(torch.maximum(actions, self.low), self.high))

    def _thaw(self, values: Tensor) -> Tensor:
        free = torch.ones_like(self.low)
        free[list(self.frozen)] = 0.0
        return values * free


@dataclass(frozen=True)
class Plan:
    """actions (B, H, A) in bounds; cost (B), the world's estimate for them; model_steps imagined per row."""

    actions: Tensor
    cost: Tensor
    model_steps: int


class Planner(Protocol):
    """Rows of the batch never mix: a row's plan is the same whoever else is in the batch."""

    def plan(
        self,
        world: WorldModel,
        state: State,
        goal: Goal,
        generator: torch.Generator,
        *,
        bounds: Bounds,
        warm_start: Tensor | None = None,
        deadline: float | None = None,
    ) -> Plan:
        """Find actions of low cost.

        Args:
            state: B rows to plan from.
            goal: cost (B, S) of futures; NaN counts as worst.
            warm_start: (B, H, A), the plan to start from, usually `shift(previous plan)`; default zeros.
            deadline: `time.monotonic()` after which no further iteration starts.
        """
        ...


def shift(actions: Tensor, steps: int = 1) -> Tensor:
    """The rest of a plan (B, H, A) after its first `steps` actions were carried out, zeros at the end."""
    return torch.cat([actions[:, steps:], torch.zeros_like(actions[:, :steps])], dim=1)
