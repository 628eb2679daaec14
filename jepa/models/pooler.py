"""The attentive classifiers: learned queries pool tokens, linear layers read them (V-JEPA 2, arXiv 2506.09985)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from jepa.models.layers import Mlp

EPS = 1e-5
"""Of the LayerNorms of the reference's probes; transformers gives them the encoder's 1e-6."""

ANTICIPATION_HEADS = ("verb_classifier", "noun_classifier", "action_classifier")


class SelfAttention(nn.Module):
    """Multi-head self-attention without positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, K, D)
        q, k, v = rearrange(self.qkv(x), "b k (three h d) -> three b h k d", three=3, h=self.heads)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h k d -> b k (h d)"))


class SelfBlock(nn.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, width: int, heads: int, eps: float = EPS) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn = SelfAttention(width, heads)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:  # (B, K, D)
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CrossAttention(nn.Module):
    """Projections of queries, keys and values, q | kv; no output projection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)


class CrossBlock(nn.Module):
    """Queries, the same for every clip and not normalised, gather from normalised tokens; then an MLP.

    The queries do not depend on the clip, so the key projection is folded into them, the value projection into
    what they gather, and the gain and bias of the tokens' LayerNorm into both: a token costs 2·H·Q dot products
    instead of 2·D. Biases of key and norm add the same to every token's logit and drop out of the softmax.
    """

    def __init__(self, width: int, heads: int, eps: float = EPS) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.xattn = CrossAttention(width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:  # (Q, D), (B, K, D) -> (B, Q, D)
        q = queries + self.gather(queries, x)
        return q + self.mlp(self.norm2(q))

    def gather(self, queries: Tensor, x: Tensor) -> Tensor:
        """Attention of queries (Q, D) over tokens (B, K, D) -> (B, Q, D)."""
        plain = F.layer_norm(x, x.shape[-1:], eps=self.norm1.eps)
        q = rearrange(self.xattn.q(queries), "q (h d) -> h q d", h=self.heads)
        key, value = rearrange(self.xattn.kv.weight, "(two h d) c -> two h d c", two=2, h=self.heads)
        asked = rearrange(q @ key, "h q c -> (h q) c") * self.norm1.weight / math.sqrt(q.shape[-1])
        attention = (asked @ plain.mT).softmax(dim=-1)  # (B, H·Q, K)
        gathered = attention @ plain * self.norm1.weight + self.norm1.bias
        gathered = rearrange(gathered, "b (h q) c -> h (b q) c", h=self.heads)
        out = rearrange(gathered @ value.mT, "h (b q) d -> b q (h d)", q=len(queries))
        return out + self.xattn.kv.bias[x.shape[-1] :]


class AttentivePooler(nn.Module):
    """Tokens (B, K, D) -> learned summaries (B, Q, D). Raises ValueError where `heads` do not divide the width."""

    def __init__(self, width: int, depth: int, heads: int, queries: int = 1, eps: float = EPS) -> None:
        super().__init__()
        if depth < 1 or width % heads:
            raise ValueError(f"attentive probe: depth {depth} must be >= 1, heads {heads} divide width {width}")
        self.query_tokens = nn.Parameter(torch.zeros(1, queries, width))
        self.blocks = nn.ModuleList(SelfBlock(width, heads, eps) for _ in range(depth - 1))
        self.cross_attention_block = CrossBlock(width, heads, eps)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.cross_attention_block(self.query_tokens[0], x)


class AttentiveClassifier(nn.Module):
    """Tokens (B, K, D) -> logits (B, C). Parameter names are those of the released probes."""

    def __init__(self, width: int, classes: int, depth: int, heads: int, eps: float = EPS) -> None:
        super().__init__()
        self.pooler = AttentivePooler(width, depth, heads, eps=eps)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pooler(x)[:, 0])


class AnticipationClassifier(nn.Module):
    """Tokens (B, K, D) -> logits (B, C) of verb, noun and action, each from a query of its own (EPIC-Kitchens-100)."""

    def __init__(self, width: int, classes: Sequence[int], depth: int, heads: int, eps: float = EPS) -> None:
        super().__init__()
        self.pooler = AttentivePooler(width, depth, heads, len(ANTICIPATION_HEADS), eps)
        for name, count in zip(ANTICIPATION_HEADS, classes, strict=True):
            self.add_module(name, nn.Linear(width, count))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        pooled = self.pooler(x)  # (B, 3, D)
        return tuple(self.get_submodule(name)(pooled[:, i]) for i, name in enumerate(ANTICIPATION_HEADS))


def build_classifier(
    width: int, classes: int, depth: int, heads: int, generator: torch.Generator
) -> AttentiveClassifier:
    """A randomly initialised classifier that draws from `generator` only."""
    with torch.device("meta"):  # so that no layer draws its default weights from the global generator
        model = AttentiveClassifier(width, classes, depth, heads)
    initialise(model.to_empty(device="cpu"), generator)
    return model


def build_anticipation_classifier(
    width: int, classes: Sequence[int], depth: int, heads: int, generator: torch.Generator
) -> AnticipationClassifier:
    """The same for so many `classes` of verbs, nouns and actions."""
    with torch.device("meta"):
        model = AnticipationClassifier(width, classes, depth, heads)
    initialise(model.to_empty(device="cpu"), generator)
    return model


@torch.no_grad()
def initialise(model: AttentiveClassifier | AnticipationClassifier, generator: torch.Generator) -> None:
    """Normal(0, 0.02) weights; residual projections divided by sqrt(2·layer), as in the reference."""
    for part in model.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02, generator=generator)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
    pooler = model.pooler
    nn.init.trunc_normal_(pooler.query_tokens, std=0.02, generator=generator)
    for layer, block in enumerate(pooler.blocks, start=1):
        for name in ("attn.proj.weight", "mlp.fc2.weight"):
            block.get_parameter(name).div_(math.sqrt(2 * layer))
    pooler.cross_attention_block.mlp.fc2.weight /= math.sqrt(2 * max(1, len(pooler.blocks)))
