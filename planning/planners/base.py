"""The contract of a planner, from state, goal and bounds to a sequence of actions; and what planners share."""

import time
from dataclasses import dataclass
from typing import Protocol

import torch
from einops import rearrange, repeat
from torch import Tensor

from jepa.config import ConfigError
from jepa.planning.constraints import Bounds
from jepa.worlds.base import Goal, State, WorldModel, score


@dataclass(frozen=True)
class Plan:
    """actions (B, H, A) in bounds; cost (B), the world's estimate for them; model_steps imagined per row.

    A step that is differentiated counts as three: going back costs about twice what going forward does.
    elites: (B, K, H, A), other good plans, best first, where the planner can start from several.
    """

    actions: Tensor
    cost: Tensor
    model_steps: int
    elites: Tensor | None = None

    def rest(self, steps: int = 1) -> Tensor:
        """What the next decision starts from once `steps` actions are carried out, as `warm_start`."""
        return shift(self.actions if self.elites is None else self.elites, steps)


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
            warm_start: (B, H, A), or (B, K, H, A) with the best first; usually the `rest` of the plan before; default
                zeros.
            deadline: `time.monotonic()` after which no further chunk of candidates is imagined; the best found so far
                is returned. One candidate at least is imagined, so that the plan has a cost.
        """
        ...


def shift(actions: Tensor, steps: int = 1) -> Tensor:
    """The rest of a plan (..., H, A) after its first `steps` actions were carried out, zeros at the end."""
    return torch.cat([actions[..., steps:, :], torch.zeros_like(actions[..., :steps, :])], dim=-2)


def starts(state: State, horizon: int, bounds: Bounds, warm_start: Tensor | None) -> Tensor:
    """The plans (B, K, H, A) to start from, in bounds; zeros, K = 1, where there is no warm start."""
    if warm_start is None:
        rows = next(iter(state.values())).shape[0]
        warm_start = bounds.low.new_zeros(rows, horizon, len(bounds.low))
    return bounds.project(warm_start[:, None] if warm_start.ndim == 3 else warm_start)


def late(deadline: float | None, result: Tensor | None = None) -> bool:
    """Whether no further chunk may start, once `result` is there: a GPU still computes when its caller goes on."""
    if deadline is None:
        return False
    if result is not None:
        result[(0,) * result.ndim].item()
    return time.monotonic() >= deadline


def check_correlation(value: float, planner: str) -> None:
    """Raise ConfigError for a correlation that noise cannot have."""
    if not -1 <= value <= 1:
        raise ConfigError(f"{planner} needs a correlation from -1 to 1, got {value}")


def smooth_noise(samples: int, mean: Tensor, correlation: float, generator: torch.Generator) -> Tensor:
    """Standard normal noise (S, H, A), AR(1) over the horizon: with `correlation` near 1, samples go far.

    One draw serves every row of `mean` (B, H, A), so that a row's plan does not depend on who else is planned.
    """
    noise = torch.randn(samples, *mean.shape[1:], generator=generator, dtype=mean.dtype)
    for h in range(1, noise.shape[1]):
        noise[:, h] = correlation * noise[:, h - 1] + (1 - correlation**2) ** 0.5 * noise[:, h]
    return noise.to(mean.device)


def energies(
    world: WorldModel,
    state: State,
    candidates: Tensor,
    goal: Goal,
    generator: torch.Generator,
    chunk: int,
    deadline: float | None = None,
) -> Tensor:
    """Cost (B, S) of candidates (B, S, H, A), NaN as infinitely bad.

    After the deadline no chunk but the first is imagined, and the cost is that of the first candidates alone.
    """
    costs = []
    for part in candidates.split(chunk, dim=1):
        costs.append(score(world, state, part, goal, generator, chunk))
        if late(deadline, costs[-1]):
            break
    return worst_if_nan(torch.cat(costs, dim=1))


def worst_if_nan(cost: Tensor) -> Tensor:
    """The same costs, with infinity for NaN."""
    return torch.where(cost.isnan(), torch.inf, cost)


def lowest(candidates: Tensor, cost: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` cheapest of each row, or all that have a cost, best first: candidates (B, K, H, A) and cost (B, K).

    Args:
        cost: (B, S), of the first candidates where not all have been imagined.
    """
    best = cost.topk(min(count, cost.shape[1]), dim=1, largest=False)
    index = repeat(best.indices, "b k -> b k h a", h=candidates.shape[2], a=candidates.shape[3])
    return candidates.gather(1, index), best.values


def cheaper(one: Tensor, its_cost: Tensor, other: Tensor, other_cost: Tensor) -> tuple[Tensor, Tensor]:
    """For each row, plan (B, H, A) and cost (B) of `one` where it costs less, of `other` elsewhere."""
    better = its_cost < other_cost
    return torch.where(better[:, None, None], one, other), torch.where(better, its_cost, other_cost)


def moments(elites: Tensor, finite: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased spread (B, H, A) of the elites of finite cost; the old ones where too few are."""
    weight = rearrange(finite.to(elites.dtype), "b k -> b k 1 1")
    count = weight.sum(1)
    new_mean = (weight * elites).sum(1) / count.clamp(min=1)
    spread = ((weight * (elites - new_mean[:, None]) ** 2).sum(1) / (count - 1).clamp(min=1)).sqrt()
    return torch.where(count > 0, new_mean, mean), torch.where(count > 1, spread, std)
