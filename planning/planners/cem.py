"""Cross-entropy method as in V-JEPA 2-AC: refit a Gaussian over action sequences to its best samples.

Differs from the reference where few samples need it and it costs nothing: the mean is one of the candidates, a
previous plan can be the first mean, the spread has a floor, and a candidate that beats the final mean is kept.
"""

import time
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor

from jepa.planning.planners.base import Bounds, Plan
from jepa.worlds.base import Goal, State, WorldModel, score


@dataclass(frozen=True)
class Config:
    horizon: int = 3
    samples: int = 400
    iterations: int = 10
    elites: int = 10
    init_std: float = 1.0  # in units of the bounds' half-width, as is std_floor
    std_floor: float = 0.05
    correlation: float = 0.0  # between the noise of successive steps: near 1, samples go far instead of to and fro
    momentum_mean: float = 0.15  # new = (1 - momentum) · elites' + momentum · old
    momentum_std: float = 0.15
    chunk: int = 64  # candidates per forward pass and row

    def __post_init__(self) -> None:
        if not 2 <= self.elites <= self.samples:
            raise ValueError(f"cem needs 2 ≤ elites ≤ samples, got {self.elites} and {self.samples}")
        if min(self.horizon, self.iterations, self.chunk) < 1:
            raise ValueError("cem needs horizon, iterations and chunk of at least 1")


def build(config: Config) -> "CEM":
    return CEM(config)


class CEM:
    def __init__(self, config: Config):
        self.config = config

    @torch.no_grad()
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
        """See `Planner.plan`. The plan is the final mean, or the best candidate seen where that costs less."""
        c = self.config
        rows = next(iter(state.values())).shape[0]
        mean = bounds.low.new_zeros(rows, c.horizon, len(bounds.low)) if warm_start is None else warm_start
        mean = bounds.clip(mean)
        std = (c.init_std * bounds.scale).expand_as(mean)
        found, price, steps = mean, mean.new_full((rows,), torch.inf), 0
        for _ in range(c.iterations):
            if deadline is not None and time.monotonic() >= deadline:
                break
            # Sample: one draw serves every row, so that a row's plan does not depend on who else is planned.
            noise = _smooth_noise(c.samples, mean, c.correlation, generator)
            noise[0] = 0.0  # the mean itself is a candidate
            candidates = bounds.clip(mean[:, None] + std[:, None] * noise.to(mean.device))  # (B, S, H, A)
            # Score
            cost = _finite_or_worst(score(world, state, candidates, goal, generator, c.chunk))  # (B, S)
            steps += c.samples * c.horizon
            # Elite
            best = cost.topk(c.elites, dim=1, largest=False)
            index = repeat(best.indices, "b k -> b k h a", h=c.horizon, a=mean.shape[-1])
            elites = candidates.gather(1, index)  # (B, K, H, A)
            found, price = _cheaper(elites[:, 0], best.values[:, 0], found, price)
            # Refit
            new_mean, new_std = _moments(elites, best.values.isfinite(), mean, std)
            mean = (1 - c.momentum_mean) * new_mean + c.momentum_mean * mean
            std = (1 - c.momentum_std) * new_std + c.momentum_std * std
            std = torch.maximum(std, c.std_floor * bounds.scale)
        mean = bounds.clip(mean)
        cost = _finite_or_worst(score(world, state, mean[:, None], goal, generator, c.chunk))[:, 0]
        return Plan(*_cheaper(found, price, mean, cost), steps + c.horizon)


def _smooth_noise(samples: int, mean: Tensor, correlation: float, generator: torch.Generator) -> Tensor:
    """Standard normal noise (S, H, A), AR(1) over the horizon (coloured noise, as in iCEM, arXiv 2008.06389)."""
    noise = torch.randn(samples, *mean.shape[1:], generator=generator, dtype=mean.dtype)
    for h in range(1, noise.shape[1]):
        noise[:, h] = correlation * noise[:, h - 1] + (1 - correlation**2) ** 0.5 * noise[:, h]
    return noise


def _cheaper(one: Tensor, its_cost: Tensor, other: Tensor, other_cost: Tensor) -> tuple[Tensor, Tensor]:
    """For each row, plan (B, H, A) and cost (B) of `one` where it costs less, of `other` elsewhere."""
    better = its_cost < other_cost
    return torch.where(better[:, None, None], one, other), torch.where(better, its_cost, other_cost)


def _finite_or_worst(cost: Tensor) -> Tensor:
    return torch.where(cost.isnan(), torch.inf, cost)


def _moments(elites: Tensor, finite: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased spread (B, H, A) of the elites of finite cost; the old ones where too few are."""
    weight = rearrange(finite.to(elites.dtype), "b k -> b k 1 1")
    count = weight.sum(1)
    new_mean = (weight * elites).sum(1) / count.clamp(min=1)
    spread = ((weight * (elites - new_mean[:, None]) ** 2).sum(1) / (count - 1).clamp(min=1)).sqrt()
    return torch.where(count > 0, new_mean, mean), torch.where(count > 1, spread, std)
