"""What one process holds of a model and its optimiser: runs of flattened tensors, by name, whatever the engine."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """The values [start, start + n) of a tensor of `shape`, flattened in C order: `values` is (n)."""

    values: Tensor
    shape: tuple[int, ...]
    start: int = 0

    @property
    def whole(self) -> bool:
        """Whether nothing of the tensor lies elsewhere."""
        return self.values.numel() == torch.Size(self.shape).numel()


Pieces = dict[str, Piece]
"""By name: `model/NAME` as in the state dict, of the fp32 master if there is one; `optimizer/NAME/KEY`; `engine/KEY`.

Over all processes each name's pieces make up the whole tensor, and none overlaps another.
"""

Read = Callable[[str], Tensor | None]
"""The whole tensor of a name, in its shape, on the CPU; None where there is none of that name."""


def whole(tensor: Tensor) -> Piece:
    """A tensor of which this process holds everything."""
    return Piece(tensor.detach().reshape(-1), tuple(tensor.shape))
