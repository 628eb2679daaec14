"""iCEM (arXiv 2008.06389): a cross-entropy method of few samples, with coloured noise and elites that are kept."""

from dataclasses import dataclass

import torch
from torch import Tensor

from jepa.config import ConfigError
from jepa.planning.planners.base import Bounds, Plan, cheaper, energies, late, lowest, moments, starts
from jepa.worlds.base import Goal, State, WorldModel


@dataclass(frozen=True)
class Config:
    """The names in brackets are the paper's."""

    horizon: int = 3
    samples: int = 100  # of the first iteration (N)
    iterations: int = 4
    elites: int = 10  # (K)
    init_std: float = 0.5  # in units of the bounds' half-width (σ_init)
    noise_exponent: float = 2.0  # power falls with frequency^-exponent; 0 is white (β)
    momentum: float = 0.1  # of mean and spread; new = (1 - momentum) · elites' + momentum · old (α)
    kept: float = 0.3  # share of the elites that lives on, to the next iteration and the next decision (ξ)
    decay: float = 1.25  # samples shrink by this factor in each iteration, to no fewer than 2 · elites (γ)
    chunk: int = 64  # candidates per forward pass and row

    def __post_init__(self) -> None:
        if not 2 <= self.elites <= self.samples:
            raise ConfigError(f"icem needs 2 ≤ elites ≤ samples, got {self.elites} and {self.samples}")
        if min(self.horizon, self.iterations, self.chunk) < 1 or self.decay < 1 or not 0 <= self.kept <= 1:
            raise ConfigError("icem needs horizon, iterations, chunk and decay of at least 1, and kept from 0 to 1")


def build(config: Config) -> "ICEM":
    return ICEM(config)


class ICEM:
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
        """See `Planner.plan`. The plan is the best candidate seen; the elites that live on come with it."""
        c = self.config
        kept = max(1, round(c.kept * c.elites))
        elites = starts(state, c.horizon, bounds, warm_start)[:, :kept]  # those of the decision before
        prices = energies(world, state, elites, goal, generator, c.chunk, deadline)  # (B, K), or fewer
        steps = prices.shape[1] * c.horizon
        mean = elites[:, 0]
        std = (c.init_std * bounds.scale).expand_as(mean)
        found, price = mean, prices[:, 0]
        for i in range(c.iterations):
            if late(deadline):
                break
            # Sample
            count = min(c.samples, max(round(c.samples * c.decay**-i), 2 * c.elites))
            noise = coloured_noise(count, mean, c.noise_exponent, generator)
            if i == c.iterations - 1:
                noise[0] = 0.0  # the mean itself, which pays only when it has settled
            candidates = bounds.project(mean[:, None] + std[:, None] * noise)  # (B, S, H, A)
            # Score; what is kept has its cost already
            cost = energies(world, state, candidates, goal, generator, c.chunk, deadline)  # (B, S), or fewer
            steps += cost.shape[1] * c.horizon
            candidates, cost = torch.cat((elites[:, :kept], candidates), 1), torch.cat((prices[:, :kept], cost), 1)
            # Elite
            elites, prices = lowest(candidates, cost, c.elites)  # (B, K, H, A), (B, K)
            found, price = cheaper(elites[:, 0], prices[:, 0], found, price)
            # Refit
            new_mean, new_std = moments(elites, prices.isfinite(), mean, std)
            mean = (1 - c.momentum) * new_mean + c.momentum * mean
            std = (1 - c.momentum) * new_std + c.momentum * std
        return Plan(found, price, steps, elites=torch.cat((found[:, None], elites[:, 1:kept]), dim=1))


WINDOW = 32  # steps


def coloured_noise(samples: int, mean: Tensor, exponent: float, generator: torch.Generator) -> Tensor:
    """Noise (S, H, A) of mean 0 and variance 1 in every step, whose power falls with frequency^-`exponent`.

    It is cut from a longer series: over the few steps of a short plan alone there is no low frequency to be loud,
    and noise of any exponent would come out white.
    """
    horizon, axes = mean.shape[1:]
    length = max(2 * horizon, WINDOW)
    white = torch.randn(samples, length, axes, generator=generator, dtype=mean.dtype)
    power = torch.fft.fftfreq(length, dtype=mean.dtype).abs().clamp(min=1 / length) ** -exponent
    gain = (power / power.mean()).sqrt()[: length // 2 + 1, None]
    coloured = torch.fft.irfft(torch.fft.rfft(white, dim=1) * gain, n=length, dim=1)
    return coloured[:, :horizon].to(mean.device)
