"""The frame-causal transformer block of the action-conditioned predictor: no mask, and a cache of earlier frames."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa.models.layers import Block
from jepa.models.rope import RopeTable, turn

QKV = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, each (B, K, heads, head_dim), queries and keys turned."""


class FrameBlock(Block):
    """A `Block` whose tokens see those of their own frame and of earlier ones, of the last `window` frames in all.

    `window` 0 sees all. With `adaptive`, a condition per frame scales, shifts and gates both branches (AdaLN-zero,
    arXiv 2212.09748): at zero, as they begin, the block does nothing.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, window: int, adaptive: bool) -> None:
        super().__init__(dim, heads, mlp_ratio)
        self.window = window
        self.modulation = nn.Linear(dim, 6 * dim) if adaptive else None

    def forward(  # type: ignore[override]
        self, x: Tensor, rope: RopeTable, frames: int, past: tuple[Tensor, ...], condition: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens x (B, F·P, D) of `frames` F frames -> the same, and the keys and values (B, (M+F)·P, heads, hd).

        Args:
            rope: the table of the F·P tokens.
            past: keys and values (B, M·P, heads, hd) of the M frames before them, or nothing.
            condition: (B, F, D), for an `adaptive` block.
        """
        modulation = self._modulation(condition)
        qkv = self.project(_modulate(self.norm1(x), modulation[:2]), rope)
        return self.attend(x, qkv, frames, past, modulation)

    def project(self, x: Tensor, rope: RopeTable) -> QKV:
        """Normed tokens (B, K, D) -> their queries, keys and values."""
        return turn(self.attn.qkv(x).unflatten(-1, (3, self.attn.heads, -1)), rope)

    def attend(
        self, x: Tensor, qkv: QKV, frames: int, past: tuple[Tensor, ...], modulation: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, from queries, keys and values."""
        q, k, v = qkv
        if past:
            k, v = torch.cat((past[0], k), dim=1), torch.cat((past[1], v), dim=1)
        x = x + _gate(self.attn.proj(frame_causal(q, k, v, frames, self.window)), modulation[2:3])
        return x + _gate(self.mlp(_modulate(self.norm2(x), modulation[3:5])), modulation[5:]), k, v

    def _modulation(self, condition: Tensor | None) -> tuple[Tensor, ...]:
        """Scale, shift and gate (B, F, 1, D) of attention, then of the MLP; nothing where nothing is adaptive."""
        if self.modulation is None or condition is None:
            return ()
        return self.modulation(F.silu(condition))[:, :, None].chunk(6, dim=-1)


def frame_causal(q: Tensor, k: Tensor, v: Tensor, frames: int, window: int) -> Tensor:
    """Attention of the queries (B, F·P, heads, hd) of `frames` F frames -> (B, F·P, heads·hd).

    Keys and values (B, (M+F)·P, heads, hd) are those of M frames before them and of their own. Each frame asks the
    keys up to its own, in a call without a mask: half the work of a masked square, and any kernel can do it.
    """
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, heads, K, hd)
    size = q.shape[2] // frames
    before = k.shape[2] // size - frames
    parts = []
    for frame, query in enumerate(q.split(size, dim=2), start=before):
        first = max(0, frame + 1 - window) if window else 0
        seen = slice(first * size, (frame + 1) * size)
        parts.append(F.scaled_dot_product_attention(query, k[:, :, seen], v[:, :, seen]))
    out = parts[0] if frames == 1 else torch.cat(parts, dim=2)
    return out.transpose(1, 2).flatten(2)


def _modulate(x: Tensor, scale_shift: tuple[Tensor, ...]) -> Tensor:
    """x (B, F·P, D) scaled and shifted frame by frame."""
    if not scale_shift:
        return x
    scale, shift = scale_shift
    return (x.unflatten(1, (scale.shape[1], -1)) * (1 + scale) + shift).flatten(1, 2)


def _gate(x: Tensor, gate: tuple[Tensor, ...]) -> Tensor:
    return (x.unflatten(1, (gate[0].shape[1], -1)) * gate[0]).flatten(1, 2) if gate else x
