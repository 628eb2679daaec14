"""Cross-entropy method as in V-JEPA 2-AC: refit a Gaussian over action sequences to its best samples.

By default it differs from the reference where few samples need it and it costs nothing: the mean is one of the
candidates, a previous plan can be the first mean, the spread has a floor, and a candidate that beats the final mean
is kept. Each of these is an option; docs/planners.md has the settings of the reference.
"""

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
    moments,
    smooth_noise,
    starts,
)
from jepa.worlds.base import Goal, State, WorldModel


@dataclass(frozen=True)
class Config:
    """`gripper_…` are for the last axis of an action, the gripper of V-JEPA 2-AC's seven; None is as the other axes."""

    horizon: int = 3
    samples: int = 400
    iterations: int = 10
    elites: int = 10
    init_std: float = 1.0  # in units of the bounds' half-width, as is std_floor
    gripper_init_std: float | None = None
    std_floor: float = 0.05
    correlation: float = 0.0  # between the noise of successive steps: near 1, samples go far instead of to and fro
    momentum_mean: float = 0.15  # new = (1 - momentum) · elites' + momentum · old
    momentum_std: float = 0.15
    gripper_momentum_mean: float | None = None
    gripper_momentum_std: float | None = None
    gripper_deadzone: float = 0.0  # in the action's units: a smaller gripper action of the final mean becomes 0
    warm_start: bool = True  # begin at the plan before, where there is one
    mean_candidate: bool = True  # the mean is one of the candidates
    keep_best: bool = True  # return the best candidate ever seen where it beats the final mean
    chunk: int = 64  # candidates per forward pass and row

    def __post_init__(self) -> None:
        if not 2 <= self.elites <= self.samples:
            raise ConfigError(f"cem needs 2 ≤ elites ≤ samples, got {self.elites} and {self.samples}")
        if min(self.horizon, self.iterations, self.chunk) < 1:
            raise ConfigError("cem needs horizon, iterations and chunk of at least 1")
        if self.keep_best and self.gripper_deadzone:
            raise ConfigError("cem: gripper_deadzone is for the final mean; it needs keep_best=false")
        check_correlation(self.correlation, "cem")


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
        """See `Planner.plan`. The plan is the final mean, or the best candidate seen where that costs less.

        An iteration that the deadline leaves fewer than `samples` and `2 * elites` does not move the mean.
        """
        c = self.config
        mean = starts(state, c.horizon, bounds, warm_start if c.warm_start else None)[:, 0]  # (B, H, A)
        std = (_per_axis(c.init_std, c.gripper_init_std, bounds) * bounds.scale).expand_as(mean)
        found, price, steps = mean, mean.new_full((len(mean),), torch.inf), 0
        for _ in range(c.iterations):
            if late(deadline):
                break
            # Sample
            noise = smooth_noise(c.samples, mean, c.correlation, generator)
            if c.mean_candidate:
                noise[0] = 0.0
            candidates = bounds.project(mean[:, None] + std[:, None] * noise)  # (B, S, H, A)
            # Score
            cost = energies(world, state, candidates, goal, generator, c.chunk, deadline)  # (B, S), or fewer
            steps += cost.shape[1] * c.horizon
            # Elite
            elites, prices = lowest(candidates, cost, c.elites)  # (B, K, H, A), (B, K)
            found, price = cheaper(elites[:, 0], prices[:, 0], found, price)
            if cost.shape[1] < min(c.samples, 2 * c.elites):
                break  # cut short: the best of so few are no better than what the mean stands on
            # Refit
            new_mean, new_std = moments(elites, prices.isfinite(), mean, std)
            mean = _blend(new_mean, mean, c.momentum_mean, c.gripper_momentum_mean, bounds)
            std = _blend(new_std, std, c.momentum_std, c.gripper_momentum_std, bounds)
            std = torch.maximum(std, c.std_floor * bounds.scale)
        if c.keep_best and steps and late(deadline):
            return Plan(found, price, steps)  # there is no time to imagine the mean
        mean = bounds.project(_quiet(mean, c.gripper_deadzone))
        cost = energies(world, state, mean[:, None], goal, generator, c.chunk)[:, 0]
        final = cheaper(found, price, mean, cost) if c.keep_best else (mean, cost)
        return Plan(*final, steps + c.horizon)


def _per_axis(value: float, gripper: float | None, bounds: Bounds) -> Tensor:
    """(A) the value of every axis; the last one has its own where that is given."""
    values = torch.full_like(bounds.low, value)
    if gripper is not None:
        values[-1] = gripper
    return values


def _blend(new: Tensor, old: Tensor, momentum: float, gripper: float | None, bounds: Bounds) -> Tensor:
    taken = _per_axis(1 - momentum, None if gripper is None else 1 - gripper, bounds)
    return taken * new + _per_axis(momentum, gripper, bounds) * old


def _quiet(mean: Tensor, deadzone: float) -> Tensor:
    """The mean (B, H, A) with gripper actions below the dead zone set to 0."""
    gripper = mean[..., -1:]
    return torch.cat((mean[..., :-1], torch.where(gripper.abs() < deadzone, 0.0, gripper)), dim=-1)
