"""What an engine promises (one way to run training, by one process or many), and how processes agree on figures."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jepa.checkpoint import CheckpointError
from jepa.pieces import Pieces, Read

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter, each of its shape, beside the number of its steps, `step`."""


class Engine(Protocol):
    """A trainable and its AdamW, made ready to run in one way. Every method is called by all processes together.

    A step is: `add_gradient` for each slice of the batch, `grad_norm`, and then either `step` or `skip`.
    """

    trainable: nn.Module
    optimizer: torch.optim.Optimizer
    """Its `param_groups` are where learning rate and weight decay are set."""
    device: torch.device

    def add_gradient(self, batch: Any, of: int, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward and backward of this process's slice, one of `of`; (loss, metrics). The `last` averages processes."""
        ...

    def grad_norm(self) -> float:
        """Norm of the gradient of all processes, before clipping; not finite where any of it is not."""
        ...

    def step(self) -> None:
        """Clip the gradient, update the parameters with it, clear it."""
        ...

    def skip(self, overflow: bool) -> bool:
        """Throw the gradient away; nothing else changes. Of an `overflow` of fp16 the loss scale is halved.

        `overflow` says that the loss was finite. Returns whether there was a loss scale to halve.
        """
        ...

    def evaluating(self) -> AbstractContextManager[None]:
        """Inside it a part of the trainable can be called alone, by all processes together."""
        ...

    def pieces(self) -> Pieces:
        """What this process is to save of model, AdamW and fp16's loss scale: views, to be copied before the next step.

        The weights are those in fp32 from which the next step goes on, and not what the model computes with.
        """
        ...

    def load(self, read: Read) -> None:
        """Take over weights, moments and loss scale, saved by whatever engine. Raises CheckpointError."""
        ...

    def load_moments(self, read: Read) -> None:
        """Take over AdamW's moments alone; a parameter without any begins anew. Raises CheckpointError."""
        ...


def fitting(read: Read, name: str, shape: torch.Size) -> Tensor:
    """The tensor `name`, which must be there and of `shape`. Raises CheckpointError."""
    value = read(name)
    if value is None:
        raise CheckpointError(f"the checkpoint does not fit the model: {name} is missing")
    if value.shape != shape:
        raise CheckpointError(
            f"the checkpoint does not fit the model: {name} is {tuple(value.shape)}, the model wants {tuple(shape)}"
        )
    return value


def moments_of(read: Read, name: str, shape: torch.Size) -> dict[str, Tensor]:
    """`step` () and the moments (of `shape`) of parameter `name`; empty where it has none. Raises CheckpointError."""
    step = read(f"optimizer/{name}/step")
    if step is None:
        return {}
    return {"step": step, **{key: fitting(read, f"optimizer/{name}/{key}", shape) for key in MOMENTS}}


def agree(values: list[float], device: torch.device) -> list[float]:
    """The largest of each value over all processes, for flags and counts; they must be finite."""
    return _reduced(values, device, dist.ReduceOp.MAX)


def mean(values: list[float], device: torch.device) -> list[float]:
    """The mean of each value over all processes; NaN or infinite for all where it is for one."""
    return [total / processes() for total in _reduced(values, device, dist.ReduceOp.SUM)]


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def _reduced(values: list[float], device: torch.device, operation: Any) -> list[float]:
    if processes() == 1:
        return values
    together = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(together, operation)
    return together.tolist()
