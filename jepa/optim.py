"""AdamW groups and the learning-rate schedule, a pure function of the step."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class OptimConfig:
    """Linear warm-up, constant, linear decay over the last `decay` steps (WSD); weight decay is constant."""

    lr: float = 5.25e-4
    start_lr: float = 1e-4
    final_lr: float = 0.0
    warmup: int = 0
    decay: int = 0
    weight_decay: float = 0.04
    clip: float = 0.0


def learning_rate(config: OptimConfig, step: int, total: int) -> float:
    """Learning rate of the update that is number `step` of `total`, counted from 1."""
    if step < config.warmup:
        return config.start_lr + (config.lr - config.start_lr) * step / config.warmup
    left = total - step
    if left < config.decay:
        return config.final_lr + (config.lr - config.final_lr) * left / config.decay
    return config.lr


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
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
