"""The attentive probe as the reference computes it, for benchmarks: plain, one module and one AdamW for every head.

Parameters have the names of `jepa.models.pooler`, so that weights can be copied. What the reference does and we do not:
every token gets a key and a value of its own, every LayerNorm its own gain and bias, and with `recompute` the backward
pass repeats the forward pass of the self-attention blocks: the reference has its activation checkpointing on.
"""

import torch.nn.functional as F
from reference.model import Mlp
from torch import Tensor, nn, zeros
from torch.utils.checkpoint import checkpoint


class SelfAttention(nn.Module):
    """Multi-head self-attention (SDPA)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, K, D)
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return self.proj(out.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = SelfAttention(dim, heads)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CrossAttention(nn.Module):
    """Queries (B, Q, D) over keys and values of tokens (B, K, D) -> (B, Q, D), without an output projection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        q = self.q(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv = self.kv(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, kv[0], kv[1]).transpose(1, 2).reshape(queries.shape)


class CrossBlock(nn.Module):
    """Queries gather from normalised tokens, then an MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.xattn = CrossAttention(dim, heads)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        q = queries + self.xattn(queries, self.norm1(x))
        return q + self.mlp(self.norm2(q))


class Pooler(nn.Module):
    """Tokens (B, K, D) -> (B, D)."""

    def __init__(self, dim: int, depth: int, heads: int, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.query_tokens = nn.Parameter(zeros(1, 1, dim))
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth - 1))
        self.cross_attention_block = CrossBlock(dim, heads)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
        return self.cross_attention_block(self.query_tokens.repeat(len(x), 1, 1), x)[:, 0]


class Classifier(nn.Module):
    """Tokens (B, K, D) -> logits (B, C)."""

    def __init__(self, dim: int, classes: int, depth: int, heads: int, recompute: bool = False) -> None:
        super().__init__()
        self.pooler = Pooler(dim, depth, heads, recompute)
        self.linear = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pooler(x))
