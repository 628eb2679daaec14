"""The transformer block that every model here is made of, and the initialisation they share."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import Mlp
from torch import Tensor, nn

from jepa.models.rope import apply_rope

RopeTable = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions; `mask` (K, K) is True where a query may look."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: RopeTable, mask: Tensor | None = None) -> Tensor:  # (B, K, D)
        q, k, v = rearrange(self.qkv(x), "b k (three h d) -> three b h k d", three=3, h=self.heads)
        x = F.scaled_dot_product_attention(apply_rope(q, rope), apply_rope(k, rope), v, attn_mask=mask)
        return self.proj(rearrange(x, "b h k d -> b k (h d)"))


class Block(nn.Module):
    """Pre-norm transformer block: attention, then an MLP, each added to its input."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, rope: RopeTable, mask: Tensor | None = None) -> Tensor:  # (B, K, D)
        x = x + self.attn(self.norm1(x), rope, mask)
        return x + self.mlp(self.norm2(x))


def check_heads(dim: int, heads: int, what: str) -> None:
    """Raises ValueError where `heads` do not divide `dim` or leave fewer than 6 channels for three rotary axes."""
    if dim % heads or dim // heads < 6:
        raise ValueError(f"{what}: width {dim} with {heads} heads; heads must divide it and leave >= 6 channels each")


def init_weights(module: nn.Module, blocks: nn.ModuleList, generator: torch.Generator) -> None:
    """Normal(0, 0.02) weights, zero biases; block l's residual projections divided by sqrt(2·l), l from 1.

    The reference truncates at ±2, a hundred standard deviations away: no truncation.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv3d):
            nn.init.normal_(part.weight, std=0.02, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    with torch.no_grad():
        for layer, block in enumerate(blocks, start=1):
            block.attn.proj.weight /= math.sqrt(2 * layer)
            block.mlp.fc2.weight /= math.sqrt(2 * layer)


def norm_features(x: Tensor) -> Tensor:
    """LayerNorm without affine over the last axis: the scale in which features are predicted and compared."""
    return F.layer_norm(x.float(), x.shape[-1:])
