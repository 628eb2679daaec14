"""Predictive sampling (arXiv 2212.00541): the best of N noisy copies of the plan before, and nothing is fitted."""

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
    iterations: int = 1  # each starts from the best so far; the paper has one a decision
    std: float = 0.5  # of the noise, in units of the bounds' half-width
    correlation: float = 0.0  # between the noise of successive steps: near 1, samples go far instead of to and fro
    chunk: int = 64  # candidates per forward pass and row

    def __post_init__(self) -> None:
        if min(self.horizon, self.samples, self.iterations, self.chunk) < 1:
            raise ConfigError("sampling needs horizon, samples, iterations and chunk of at least 1")
        check_correlation(self.correlation, "sampling")


def build(config: Config) -> "PredictiveSampling":
    return PredictiveSampling(config)


class PredictiveSampling:
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
        """See `Planner.plan`. The plan is the best candidate; the plan before is one of them."""
        c = self.config
        found = starts(state, c.horizon, bounds, warm_start)[:, 0]  # (B, H, A)
        price, steps = energies(world, state, found[:, None], goal, generator, c.chunk)[:, 0], c.horizon
        for _ in range(c.iterations):
            if late(deadline):
                break
            # Sample
            noise = smooth_noise(c.samples, found, c.correlation, generator)
            candidates = bounds.project(found[:, None] + c.std * bounds.scale * noise)  # (B, S, H, A)
            # Score
            cost = energies(world, state, candidates, goal, generator, c.chunk, deadline)  # (B, S), or fewer
            steps += cost.shape[1] * c.horizon
            # Keep the best
            best, its_cost = lowest(candidates, cost, 1)
            found, price = cheaper(best[:, 0], its_cost[:, 0], found, price)
        return Plan(found, price, steps)
