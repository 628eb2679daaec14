"""AdamW groups, and the schedules of learning rate and weight decay: pure functions of the step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from jepa.config import ConfigError

SCHEDULES = ("wsd", "cosine", "linear")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedules; the defaults are V-JEPA 2's (arXiv 2506.09985, §2).

    Every schedule warms up linearly from `start_lr` to `lr` over `warmup` steps. `wsd` then stays there and falls
    linearly to `final_lr` over the last `decay` steps; `cosine` and `linear` fall to it over all that is left.
    Weight decay goes along a cosine to `final_weight_decay` over the run; None: it is constant.

    `stretch` lays the schedules out for that many times the run's steps: above 1, the run ends before they do.
    `clip` > 0 is the largest norm of the gradient. Raises ConfigError for a value outside its range.
    """

    schedule: str = "wsd"
    lr: float = 5.25e-4
    start_lr: float = 1e-4
    final_lr: float = 0.0
    warmup: int = 0
    decay: int = 0
    stretch: float = 1.0
    weight_decay: float = 0.04
    final_weight_decay: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))  # configs give lists
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"loop.optim.schedule '{self.schedule}' is not one of {', '.join(SCHEDULES)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"loop.optim.betas {list(self.betas)}: two numbers, each at least 0 and below 1")
        if min(self.stretch, self.eps) <= 0:
            raise ConfigError("loop.optim.stretch and loop.optim.eps must be more than 0")


def learning_rate(config: OptimConfig, step: int, total: int) -> float:
    """Learning rate of the update that is number `step` of `total`, counted from 1."""
    if step < config.warmup:
        return config.start_lr + (config.lr - config.start_lr) * step / config.warmup
    end = horizon(config, total)
    if config.schedule == "wsd":
        left = end - step
        if left < config.decay:
            return config.final_lr + (config.lr - config.final_lr) * left / config.decay
        return config.lr
    progress = _progress(step - config.warmup, end - config.warmup)
    fall = progress if config.schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
    return config.lr + (config.final_lr - config.lr) * fall


def weight_decay(config: OptimConfig, step: int, total: int) -> float:
    """Weight decay of the update that is number `step` of `total`, for the parameters that are decayed at all."""
    if config.final_weight_decay is None:
        return config.weight_decay
    fall = (1 - math.cos(math.pi * _progress(step, horizon(config, total)))) / 2
    return config.weight_decay + (config.final_weight_decay - config.weight_decay) * fall


def horizon(config: OptimConfig, total: int) -> int:
    """The step at which the schedules of a run of `total` steps end."""
    return int(config.stretch * total)


def build_adamw(named: Iterable[tuple[str, nn.Parameter]], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW; biases and one-dimensional parameters (norms) are not decayed, mask tokens are, as in the reference."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in named:
        (free if name.endswith("bias") or parameter.ndim == 1 else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def set_schedule(optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, total: int) -> None:
    """Set what the schedules say of update `step` of `total` in the two groups of `build_adamw`."""
    decayed, free = optimizer.param_groups
    decayed["lr"] = free["lr"] = learning_rate(config, step, total)
    decayed["weight_decay"] = weight_decay(config, step, total)


def _progress(step: int, steps: int) -> float:
    """From 0 to 1 over `steps` steps; 1 from then on."""
    return min(1.0, step / steps) if steps > 0 else 1.0
