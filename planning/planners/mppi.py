"""Model predictive path integral control (arXiv 1509.01149): move the mean to the samples, weighted by exp(-cost)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from jepa.config import ConfigError
from jepa.planning.planners.base import (
    Bounds,
    Plan,
    cheaper,
    check_correlation,
    energies,
    late,
    lowest,
    smooth_noise,
    starts,
)
from jepa.worlds.base import Goal, State, WorldModel


@dataclass(frozen=True)
class Config:
    horizon: int = 3
    samples: int = 128
    iterations: int = 6
    temperature: float = 0.1  # λ, in units of the spread of the candidates' costs: 0 takes the best, much averages all
    std: float = 0.7  # of the noise, in units of the bounds' half-width
    std_decay: float = 0.7  # the noise shrinks by this factor in each iteration; 1 is the paper's
    correlation: float = 0.0  # between the noise of successive steps: near 1, samples go far instead of to and fro
    chunk: int = 64  # candidates per forward pass and row

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ConfigError(f"mppi needs a temperature above 0, got {self.temperature}")
        if min(self.horizon, self.samples, self.iterations, self.chunk) < 1:
            raise ConfigError("mppi needs horizon, samples, iterations and chunk of at least 1")
        check_correlation(self.correlation, "mppi")


def build(config: Config) -> "MPPI":
    return MPPI(config)


class MPPI:
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
        mean = starts(state, c.horizon, bounds, warm_start)[:, 0]  # (B, H, A)
        found, price, steps = mean, mean.new_full((len(mean),), torch.inf), 0
        for i in range(c.iterations):
            if late(deadline):
                break
            # Sample
            noise = smooth_noise(c.samples, mean, c.correlation, generator)
            noise[0] = 0.0  # the mean is one of the candidates
            candidates = bounds.project(mean[:, None] + c.std * c.std_decay**i * bounds.scale * noise)  # (B, S, H, A)
            # Score
            cost = energies(world, state, candidates, goal, generator, c.chunk, deadline)  # (B, S), or fewer
            steps += cost.shape[1] * c.horizon
            best, its_cost = lowest(candidates, cost, 1)
            found, price = cheaper(best[:, 0], its_cost[:, 0], found, price)
            # Weight
            weight = _weights(cost, c.temperature)[..., None, None]  # (B, S, 1, 1)
            average = (weight * candidates[:, : cost.shape[1]]).sum(1)
            mean = torch.where(cost.isfinite().any(1)[:, None, None], average, mean)
        if steps and late(deadline):
            return Plan(found, price, steps)  # there is no time to imagine the mean
        mean = bounds.project(mean)
        cost = energies(world, state, mean[:, None], goal, generator, c.chunk)[:, 0]
        return Plan(*cheaper(found, price, mean, cost), steps + c.horizon)


def _weights(cost: Tensor, temperature: float) -> Tensor:
    """Weights (B, S), of sum 1, of candidates by their cost (B, S); the spread makes them free of the cost's unit."""
    finite = cost.isfinite()
    count = finite.sum(1, keepdim=True).clamp(min=1)
    known = torch.where(finite, cost, 0.0)
    centre = known.sum(1, keepdim=True) / count
    spread = (torch.where(finite, known - centre, 0.0).square().sum(1, keepdim=True) / count).sqrt()
    least = torch.where(finite, cost, torch.inf).amin(1, keepdim=True)
    excess = torch.where(finite, (cost - least) / (temperature * spread).clamp(min=1e-12), torch.inf)
    return torch.softmax(-excess, dim=1)
