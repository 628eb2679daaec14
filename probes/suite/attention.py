"""Where an attentive probe looks: the attention of its query over the tokens of a clip."""

import torch
from einops import rearrange
from torch import Tensor

from jepa.models.pooler import AttentiveClassifier


@torch.no_grad()
def attention(model: AttentiveClassifier, tokens: Tensor) -> Tensor:
    """Tokens (B, K, D) -> the weight (B, K) that the query gives to each, a mean over heads; each row sums to 1.

    After self-attention blocks (depth above 1) a token has seen the others: its weight is then of a place and all
    that was gathered there.
    """
    pooler = model.pooler
    for block in pooler.blocks:
        tokens = block(tokens)
    cross = pooler.cross_attention_block
    key, _ = cross.xattn.kv(cross.norm1(tokens)).chunk(2, dim=-1)
    q = rearrange(cross.xattn.q(pooler.query_tokens[0, 0]), "(h d) -> h d", h=cross.heads)
    keys = rearrange(key, "b k (h d) -> b h k d", h=cross.heads)
    logits = torch.einsum("hd,bhkd->bhk", q, keys) / q.shape[-1] ** 0.5
    return logits.softmax(-1).mean(1)
