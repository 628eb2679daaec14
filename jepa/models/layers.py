"""The transformer block that every model here is made of, drop path, and the initialisation they share."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import Mlp
from torch import Tensor, nn

from jepa.models.rope import RopeTable, turn

Parts = Sequence[tuple[int, int]]
"""Runs of tokens, one after the other: how many tokens each begins with, and how many of another kind follow them."""


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions; `mask` is True where a query (row) may look.

    With `parts`, and then without a mask, a token sees those of its own part only. The first of a part are looked at,
    but ask nothing and do not come out. With `alike` the second kind of a part are all the same, but for their places:
    x (B, K, D) holds one of them, the rope table all their places.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, rope: RopeTable, mask: Tensor | None = None, parts: Parts = (), alike: Parts = ()
    ) -> Tensor:  # (B, K, D) -> (B, those of K that ask, D)
        turned = turn(_repeat(self.qkv(x), alike).unflatten(-1, (3, self.heads, -1)), rope)
        q, k, v = (x.transpose(1, 2) for x in turned)  # (B, heads, K, hd)
        if not parts:
            return self.proj(_join_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))
        sizes = [silent + asking for silent, asking in parts]
        runs = zip(*(x.split(sizes, dim=2) for x in (q, k, v)), parts, strict=True)
        outs = [F.scaled_dot_product_attention(q[:, :, silent:], k, v) for q, k, v, (silent, _) in runs]
        return self.proj(torch.cat([_join_heads(x) for x in outs], dim=1))


class SwiGLU(nn.Module):
    """Gated MLP fc3(SiLU(fc1 x) · fc2 x), of 2/3 the hidden width up to a multiple of 8: as many weights as `Mlp`."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        hidden = -(-int(2 * hidden / 3) // 8) * 8
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(dim, hidden)
        self.fc3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, K, D)
        return self.fc3(F.silu(self.fc1(x)) * self.fc2(x))


class Block(nn.Module):
    """Pre-norm transformer block: attention, then an MLP, each added to its input.

    `drop` (2, B, 1 or K, 1) scales the two branches: see `DropPath`. `parts` and `alike` are those of `Attention`.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, swiglu: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = (SwiGLU if swiglu else Mlp)(dim, int(dim * mlp_ratio))

    def forward(
        self, x: Tensor, rope: RopeTable, drop: Tensor | None = None, parts: Parts = (), alike: Parts = ()
    ) -> Tensor:  # (B, K, D) -> (B, those of K that ask, D)
        attended = self.attn(self.norm1(x), rope, None, parts, alike)
        x = _asking(_repeat(x, alike), parts) + (attended if drop is None else attended * drop[0])
        changed = self.mlp(self.norm2(x))
        return x + (changed if drop is None else changed * drop[1])


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): each sample leaves out each residual branch, ever more often with depth.

    Blocks are dropped at rates from 0 to `rate`, linearly. Call n draws from (seed, n) and from nothing else; n is
    part of the state dict, so that a resumed run drops what it would have dropped. Every rank draws the same.
    """

    def __init__(self, rate: float, depth: int, seed: int) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path is a rate from 0 to below 1, not {rate}")
        self.keep = 1 - rate * np.arange(depth) / max(depth - 1, 1)  # (depth)
        self.seed, self.calls = seed, 0

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """x (B, K, D) -> scales (depth, 2, B, 1, 1): 0 for a dropped branch, 1/(1 - its rate) for another."""
        keep = self.keep[:, None, None, None, None]
        chance = np.random.default_rng((self.seed, self.calls)).random((len(keep), 2, len(x), 1, 1))
        self.calls += 1
        return torch.from_numpy((chance < keep) / keep).to(x)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)


def check_heads(dim: int, heads: int, what: str) -> None:
    """Raises ValueError where `heads` do not divide `dim` or leave fewer than 6 channels for three rotary axes."""
    if dim % heads or dim // heads < 6:
        raise ValueError(f"{what}: width {dim} with {heads} heads; heads must divide it and leave >= 6 channels each")


def init_weights(module: nn.Module, blocks: nn.ModuleList, generator: torch.Generator) -> None:
    """Normal(0, 0.02) weights, zero biases; block l's residual projections divided by sqrt(2·l), l from 1.

    The reference truncates at ±2, a hundred standard deviations away: no truncation. With SwiGLU the reference
    divides a gate and leaves the true output, fc3, as it is; here it is the output that is divided.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv3d):
            nn.init.normal_(part.weight, std=0.02, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    with torch.no_grad():
        for layer, block in enumerate(blocks, start=1):
            out = block.mlp.fc3 if isinstance(block.mlp, SwiGLU) else block.mlp.fc2
            block.attn.proj.weight /= math.sqrt(2 * layer)
            out.weight /= math.sqrt(2 * layer)


def _join_heads(x: Tensor) -> Tensor:  # (B, heads, K, hd) -> (B, K, D)
    return rearrange(x, "b h k d -> b k (h d)")


def _asking(x: Tensor, parts: Parts) -> Tensor:
    """The tokens of x (B, K, D) that ask: of each part the second kind."""
    if not any(silent for silent, _ in parts):
        return x
    return torch.cat(x.split([count for part in parts for count in part], dim=1)[1::2], dim=1)


def _repeat(x: Tensor, alike: Parts) -> Tensor:
    """x (B, K, D), with the one token that stands for all of its kind as often as these are many."""
    if not alike:
        return x
    runs = x.split([count for different, _ in alike for count in (different, 1)], dim=1)
    counts = [count for part in alike for count in part]
    return torch.cat([run.expand(-1, count, -1) for run, count in zip(runs, counts, strict=True)], dim=1)


def norm_features(x: Tensor) -> Tensor:
    """LayerNorm without affine over the last axis: the scale in which features are predicted and compared."""
    return F.layer_norm(x.float(), x.shape[-1:])
