"""Three-dimensional rotary position embedding (V-JEPA 2, arXiv 2506.09985, §2.1): one table for all blocks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

RopeTable = tuple[Tensor, Tensor]
"""Cosines and sines, each (B or 1, K, head_dim)."""


@dataclass(frozen=True)
class Rope:
    """How token ids become turns of queries and keys: one answer for an encoder and its predictor.

    `reference` > 0 stretches rows and columns to a grid of that many (V-JEPA 2.1), so that other resolutions see
    the positions of training; time is never stretched. `layout` and `bf16` are those of `rope_table`.
    """

    layout: str = "interleaved"
    reference: int = 0
    bf16: bool = False

    def table(self, ids: Tensor, grid: tuple[int, int, int], head_dim: int) -> RopeTable:
        """Token ids (B or 1, K) of a grid (t, rows, columns) -> the table of a forward pass."""
        return rope_table(positions(ids, grid, self.reference), head_dim, self.layout, self.bf16)


def positions(ids: Tensor, grid: tuple[int, int, int], reference: int = 0) -> Tensor:
    """Token ids (B, K) in (t, h, w) raster order -> coordinates (B, K, 3).

    They are integers, or with a reference grid floats: rows and columns then run from 0 to `reference` - 1.
    """
    _, height, width = grid
    time, rest = ids // (height * width), ids % (height * width)
    rows, columns = rest // width, rest % width
    if reference:
        rows, columns = (x * (reference - 1) / max(n - 1, 1) for x, n in ((rows, height), (columns, width)))
        time = time.to(rows.dtype)
    return torch.stack((time, rows, columns), dim=-1)


def rope_table(positions: Tensor, head_dim: int, layout: str, bf16: bool = False) -> RopeTable:
    """Cosines and sines, each (..., head_dim) fp32, of the positions (..., 3) = (time, height, width).

    Each axis turns `a = 2·⌊⌊head_dim/3⌋/2⌋` channels at frequencies 10000^(-2j/a); the channels beyond 3a do
    not turn. `interleaved` gives both members of a channel pair the same frequency. `tiled` repeats the
    frequencies block-wise, so the members differ: not a rotation, but what the released weights were trained with.
    `bf16` rounds the exponents 2j/a, as their training under bf16 autocast did: frequencies move by up to 1.7 %.

    Raises ValueError for another layout.
    """
    if layout not in ("interleaved", "tiled"):
        raise ValueError(f"rope_layout is 'interleaved' or 'tiled', not '{layout}'")
    axis_dim = 2 * (head_dim // 3 // 2)
    half = axis_dim // 2
    exponent = -torch.arange(half, device=positions.device, dtype=torch.float32) / half
    frequency = 10000.0 ** (exponent.bfloat16().float() if bf16 else exponent)
    frequency = frequency.repeat(2) if layout == "tiled" else frequency.repeat_interleave(2)  # (a)
    angle = (positions.float()[..., None] * frequency).flatten(-2)  # (..., 3a)
    still = angle.new_zeros(*angle.shape[:-1], head_dim - 3 * axis_dim)
    angle = torch.cat((angle, still), dim=-1)
    return angle.cos(), angle.sin()


def turn(qkv: Tensor, table: RopeTable) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys turned by the table, and values as they are, each (B, K, heads, head_dim).

    `qkv` (B, K, 3, heads, head_dim) holds all three. A turn is x·cos + x'·sin, with x' the x a quarter turn further on.
    """
    cos, sin = (part[:, :, None, None].to(qkv.dtype) for part in table)
    return _Turn.apply(qkv, cos, sin)


class _Turn(torch.autograd.Function):
    """Queries and keys in one go, and one gradient for all three: autograd would add up three that are mostly zeros."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        both = qkv[:, :, :2]
        turned = (both * cos).add_(_quarter_turn(both).mul_(sin))
        return turned[:, :, 0], turned[:, :, 1], qkv[:, :, 2]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        out = torch.stack(gradients, dim=2)
        both = out[:, :, :2]
        back = _quarter_turn(both * sin)  # the transpose of a quarter turn is its negative
        both.mul_(cos).sub_(back)
        return out, None, None


def _quarter_turn(x: Tensor) -> Tensor:
    """Adjacent channels (a, b) -> (-b, a), as a new tensor."""
    if x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling():
        # i·(a + ib) is the same in one vectorised pass; there are no such bf16 numbers, and no code for them compiled.
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * 1j).flatten(-2)
    return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
