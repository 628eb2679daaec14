"""Three-dimensional rotary position embedding (V-JEPA 2, arXiv 2506.09985, §2.1): one table for all blocks."""

import torch
from torch import Tensor


def positions(ids: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Token ids (B, K) in (t, h, w) raster order -> integer coordinates (B, K, 3)."""
    _, height, width = grid
    time, rest = ids // (height * width), ids % (height * width)
    return torch.stack((time, rest // width, rest % width), dim=-1)


def rope_table(positions: Tensor, head_dim: int, layout: str) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (..., head_dim) fp32, of the positions (..., 3) = (time, height, width).

    Each axis turns `a = 2·⌊⌊head_dim/3⌋/2⌋` channels at frequencies 10000^(-2j/a); the channels beyond 3a do
    not turn. `interleaved` gives both members of a channel pair the same frequency. `tiled` repeats the
    frequencies block-wise, so the members differ: not a rotation, but what the released weights were trained with.

    Raises ValueError for another layout.
    """
    if layout not in ("interleaved", "tiled"):
        raise ValueError(f"rope_layout is 'interleaved' or 'tiled', not '{layout}'")
    axis_dim = 2 * (head_dim // 3 // 2)
    half = axis_dim // 2
    frequency = 10000.0 ** (-torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    frequency = frequency.repeat(2) if layout == "tiled" else frequency.repeat_interleave(2)  # (a)
    angle = (positions.float()[..., None] * frequency).flatten(-2)  # (..., 3a)
    still = angle.new_zeros(*angle.shape[:-1], head_dim - 3 * axis_dim)
    angle = torch.cat((angle, still), dim=-1)
    return angle.cos(), angle.sin()


def apply_rope(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn adjacent channel pairs of x (B, heads, K, head_dim) by a table of (B or 1, K, head_dim) each."""
    cos, sin = (part.unsqueeze(1).to(x.dtype) for part in table)
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    return x * cos + turned * sin
