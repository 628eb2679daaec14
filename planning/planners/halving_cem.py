"""CEM on a tree: candidates share their first steps, and bad beginnings need not be imagined further.

Successive halving (arXiv 1502.07943) on a tree of action sequences. `samples` first steps are drawn and imagined; the
`keep` share with the lowest energy so far, and always the mean, goes on; each of those is continued in `children` ways;
and so on. The noise of each candidate is distributed as CEM's, and what reaches the end has been imagined as by CEM, so
the energies that elites are chosen by, and that of the plan, are exact. docs/planners.md says what it saves and when.
"""

import math
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
    starts,
    worst_if_nan,
)
from jepa.worlds.base import Future, Goal, State, WorldModel


@dataclass(frozen=True)
class Config:
    horizon: int = 3
    samples: int = 200  # first steps
    children: int = 2  # continuations of each beginning that goes on
    keep: float = 1.0  # share of the beginnings that goes on after each step; 0.5 with two children keeps their number
    iterations: int = 10
    elites: int = 10
    init_std: float = 1.0  # in units of the bounds' half-width, as is std_floor
    std_floor: float = 0.05
    correlation: float = 0.0  # between the noise of successive steps: near 1, samples go far instead of to and fro
    momentum_mean: float = 0.15  # new = (1 - momentum) · elites' + momentum · old
    momentum_std: float = 0.15
    chunk: int = 64  # candidates per forward pass and row

    def __post_init__(self) -> None:
        if min(self.horizon, self.samples, self.children, self.iterations, self.chunk) < 1 or not 0 < self.keep <= 1:
            raise ConfigError("halving_cem needs horizon, samples, children, iterations, chunk ≥ 1 and keep in (0, 1]")
        if not 2 <= self.elites <= (last := self.widths()[-1]):
            raise ConfigError(
                f"halving_cem needs 2 ≤ elites ≤ the {last} candidates that reach the end; got {self.elites}"
            )
        check_correlation(self.correlation, "halving_cem")

    def widths(self) -> list[int]:
        """How many candidates are imagined in each step."""
        widths = [self.samples]
        for _ in range(self.horizon - 1):
            widths.append(self.children * math.ceil(self.keep * widths[-1]))
        return widths


def build(config: Config) -> "HalvingCEM":
    return HalvingCEM(config)


class HalvingCEM:
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
        std = (c.init_std * bounds.scale).expand_as(mean)
        found, price, steps = mean, mean.new_full((len(mean),), torch.inf), 0
        for _ in range(c.iterations):
            if late(deadline):
                break
            # Sample and score, step by step
            candidates, cost, imagined = self._grow(world, state, goal, generator, bounds, mean, std, deadline)
            steps += imagined
            # Elite
            elites, prices = lowest(candidates, cost, c.elites)  # (B, K, H, A), (B, K)
            found, price = cheaper(elites[:, 0], prices[:, 0], found, price)
            # Refit
            new_mean, new_std = moments(elites, prices.isfinite(), mean, std)
            mean = (1 - c.momentum_mean) * new_mean + c.momentum_mean * mean
            std = (1 - c.momentum_std) * new_std + c.momentum_std * std
            std = torch.maximum(std, c.std_floor * bounds.scale)
        if steps and late(deadline):
            return Plan(found, price, steps)  # there is no time to imagine the mean
        mean = bounds.project(mean)
        cost = energies(world, state, mean[:, None], goal, generator, c.chunk)[:, 0]
        return Plan(*cheaper(found, price, mean, cost), steps + c.horizon)

    def _grow(
        self,
        world: WorldModel,
        state: State,
        goal: Goal,
        generator: torch.Generator,
        bounds: Bounds,
        mean: Tensor,
        std: Tensor,
        deadline: float | None = None,
    ) -> tuple[Tensor, Tensor, int]:
        """Candidates (B, S, H, A) that were imagined to their end, their costs (B, S), and the model steps of a row.

        After the deadline each step is imagined for its first chunk alone, of the mean and the best beginnings.
        """
        c, (rows, horizon, axes) = self.config, mean.shape
        # (B, S, …), views: what all candidates share takes no memory
        running = {key: value[:, None].expand(-1, c.samples, *value.shape[1:]) for key, value in state.items()}
        plans, noise = mean.new_empty(rows, c.samples, 0, axes), mean.new_zeros(rows, c.samples, axes)
        imagined = 0
        seen: list[Tensor] = []  # features (B, S, N, D) of the steps that the goal reads
        for h in range(horizon):
            # Sample; the first of all is the mean
            fresh = torch.randn(plans.shape[1], axes, generator=generator, dtype=mean.dtype).to(mean.device)
            fresh[0] = 0.0
            correlation = c.correlation if h else 0.0
            noise = correlation * noise + (1 - correlation**2) ** 0.5 * fresh
            action = (mean[:, None, h] + std[:, None, h] * noise)[:, :, None]  # (B, S, 1, A)
            plans = torch.cat((plans, bounds.later(h).project(action)), dim=2)
            # Score
            running, features = self._step(world, running, plans[:, :, h], generator, deadline)
            imagined += (count := features.shape[1])
            plans, noise, seen = plans[:, :count], noise[:, :count], [part[:, :count] for part in seen]
            seen = [features] if getattr(goal, "last_only", False) else [*seen, features]
            cost = worst_if_nan(goal(Future(torch.stack(seen, dim=2), plans)))  # (B, S)
            if h == horizon - 1:
                break
            # Drop, and branch
            rank = cost.clone()
            rank[:, 0] = -torch.inf  # the mean stays, and stays first
            best = rank.topk(math.ceil(c.keep * rank.shape[1]), dim=1, largest=False).indices
            parent = best.repeat_interleave(c.children, dim=1)
            running = {key: _take(value, parent) for key, value in running.items()}
            plans, noise, seen = _take(plans, parent), _take(noise, parent), [_take(part, parent) for part in seen]
        return plans, cost, imagined

    def _step(
        self,
        world: WorldModel,
        running: State,
        action: Tensor,
        generator: torch.Generator,
        deadline: float | None,
    ) -> tuple[State, Tensor]:
        """States (B, S, …) of candidates after `action` (B, S, A), and their features (B, S, N, D).

        After the deadline no chunk but the first is imagined, and both are those of the first candidates alone.
        """
        states, features = [], []
        for i in range(0, action.shape[1], self.config.chunk):
            part = slice(i, i + self.config.chunk)
            before = {key: value[:, part].flatten(0, 1) for key, value in running.items()}
            after = world.step(before, action[:, part].flatten(0, 1), generator).state
            states.append({key: value.unflatten(0, (len(action), -1)) for key, value in after.items()})
            features.append(world.features(after).unflatten(0, (len(action), -1)))
            if late(deadline, features[-1]):
                break
        return {key: torch.cat([part[key] for part in states], dim=1) for key in states[0]}, torch.cat(features, dim=1)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Candidates `index` (B, K) of values (B, S, …)."""
    return values[torch.arange(len(index), device=index.device)[:, None], index]
