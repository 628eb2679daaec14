"""Three-dimensional rotary position embedding (V-JEPA 2, arXiv 2506.09985, §2.1): one table for all blocks."""

from dataclasses import dataclass

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


def apply_rope(x: Tensor, table: RopeTable) -> Tensor:
    """Turn adjacent channel pairs of x (..., B, heads, K, head_dim) by a table of (B or 1, K, head_dim) each."""
    cos, sin = (part.unsqueeze(1).to(x.dtype) for part in table)
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    return x * cos + turned * sin
