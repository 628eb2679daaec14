"""Gradient descent through the world model: Adam on the actions from several starts, projected into the bounds."""

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
    worst_if_nan,
)
from jepa.worlds.base import Goal, State, WorldModel, rollout


@dataclass(frozen=True)
class Config:
    """The source of the method for learned models is universal planning networks (arXiv 1804.00645)."""

    horizon: int = 3
    restarts: int = 8  # one starts from the plan before, the others from that plus noise
    iterations: int = 20
    learning_rate: float = 0.3  # in units of the bounds' half-width; it falls to 0 in a straight line
    std: float = 0.5  # of the starts, in units of the bounds' half-width
    correlation: float = 0.9  # between successive steps of a start
    chunk: int = 64  # starts per forward pass and row

    def __post_init__(self) -> None:
        if min(self.horizon, self.restarts, self.iterations, self.chunk) < 1 or self.learning_rate <= 0:
            raise ConfigError(
                "gradient needs horizon, restarts, iterations and chunk of at least 1, learning_rate above 0"
            )
        check_correlation(self.correlation, "gradient")


def build(config: Config) -> "Gradient":
    return Gradient(config)


class Gradient:
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
        """See `Planner.plan`. The plan is the best point of all descents.

        Raises:
            ConfigError: the world cannot be differentiated, as a simulator cannot.
        """
        c = self.config
        found = starts(state, c.horizon, bounds, warm_start)[:, 0]  # (B, H, A)
        price, steps = energies(world, state, found[:, None], goal, generator, c.chunk)[:, 0], c.horizon
        noise = smooth_noise(c.restarts, found, c.correlation, generator)
        noise[0] = 0.0
        points = bounds.project(found[:, None] + c.std * bounds.scale * noise).requires_grad_()  # (B, R, H, A)
        adam = torch.optim.Adam([points], lr=1.0)
        for i in range(c.iterations):
            if late(deadline):
                break
            # Score, and differentiate
            cost, slope = _slopes(world, state, points, goal, generator, c.chunk, deadline)  # (B, R), (B, R, H, A)
            steps += 3 * cost.shape[1] * c.horizon
            best, its_cost = lowest(points.detach(), cost, 1)
            found, price = cheaper(best[:, 0], its_cost[:, 0], found, price)
            if slope.shape != points.shape:
                break  # out of time
            # Descend: Adam's step is free of the cost's unit, so it is measured in the bounds'
            before, points.grad = points.detach().clone(), slope
            adam.step()
            rate = c.learning_rate * (1 - i / c.iterations) * bounds.scale
            points.copy_(bounds.project(before + rate * (points - before)))
        return Plan(found, price, steps)


def _slopes(
    world: WorldModel,
    state: State,
    points: Tensor,
    goal: Goal,
    generator: torch.Generator,
    chunk: int,
    deadline: float | None,
) -> tuple[Tensor, Tensor]:
    """Cost (B, R) of points (B, R, H, A) and its derivative by each of them; 0 where it is not finite.

    After the deadline no chunk but the first is imagined, and both are those of the first points alone.
    """
    costs, slopes = [], []
    for part in points.detach().split(chunk, dim=1):
        with torch.enable_grad():
            leaf = part.requires_grad_()
            cost = goal(rollout(world, state, leaf, generator, getattr(goal, "last_only", False)))
            total = cost.sum()
        slope = torch.autograd.grad(total, leaf, allow_unused=True)[0] if cost.requires_grad else None
        if slope is None:
            raise ConfigError("planner gradient needs a world model that can be differentiated; choose another planner")
        slopes.append(slope.nan_to_num(0.0, 0.0, 0.0))
        costs.append(worst_if_nan(cost.detach()))
        if late(deadline, slope):
            break
    return torch.cat(costs, dim=1), torch.cat(slopes, dim=1)
