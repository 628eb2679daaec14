"""Attentive classifiers of one shape side by side: one batched forward pass, with what they share computed once."""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from jepa.models.pooler import AnticipationClassifier, AttentiveClassifier

Classifier = AttentiveClassifier | AnticipationClassifier
Outputs = Tensor | tuple[Tensor, ...]
Named = dict[str, Tensor]

CROSS = "pooler.cross_attention_block"


class Stacked(nn.Module):
    """Tokens (B, K, D) -> outputs (heads, B, C) of every classifier; a tuple of them where it has several linears.

    `values` (heads, P) holds all parameters of a classifier in one row, so that AdamW, which here decays all alike,
    sees one tensor a head. The tokens' first LayerNorm is the same for all: its gains and biases, as those of every
    other norm, are folded into the linear layer behind it.

    Raises:
        ValueError: the classifiers differ in shape.
    """

    values: Tensor

    def __init__(self, models: Sequence[Classifier]) -> None:
        super().__init__()
        shapes = [{name: p.shape for name, p in model.named_parameters()} for model in models]
        if any(other != shapes[0] for other in shapes):
            raise ValueError("only classifiers of one shape can be stacked")
        pooler = models[0].pooler
        self.shapes = shapes[0]
        self.depth, self.heads = 1 + len(pooler.blocks), pooler.cross_attention_block.heads
        self.eps = pooler.cross_attention_block.norm1.eps
        self.linears = [name for name, part in models[0].named_children() if isinstance(part, nn.Linear)]
        self._like = (copy.deepcopy(models[0]).to("meta"),)  # in a tuple: no module of this one
        self.register_buffer("values", torch.stack([parameters_to_vector(m.parameters()).detach() for m in models]))

    def __len__(self) -> int:
        return len(self.values)

    def models(self) -> list[Classifier]:
        """Plain classifiers with copies of the weights."""
        found = []
        for row in self.values:
            model = copy.deepcopy(self._like[0])
            named = {name: part[0].clone() for name, part in self._named(row[None]).items()}
            model.load_state_dict(named, assign=True)
            found.append(model)
        return found

    def largest(self, tokens: Tensor) -> int:
        """Numbers in the largest activation of one head over tokens (B, K, D)."""
        batch, count, width = tokens.shape
        queries = self.shapes["pooler.query_tokens"][1]
        return batch * count * max(4 * width * (self.depth > 1), self.heads * queries)

    def forward(self, tokens: Tensor, values: Tensor | None = None) -> Outputs:
        """Outputs of all heads, or of those whose parameters are the rows of `values` (heads, P)."""
        p = self._named(self.values if values is None else values)
        x = tokens[None]  # (1, B, K, D): one copy for all heads, until a block has changed it
        for i in range(self.depth - 1):
            x = self._block(x, p, f"pooler.blocks.{i}")
        pooled = self._cross(x, p)
        found = [_linear(pooled[:, :, q], p, name) for q, name in enumerate(self.linears)]
        return found[0] if len(found) == 1 else tuple(found)

    def _named(self, values: Tensor) -> Named:
        """Rows (heads, P) -> name: (heads, *shape); views."""
        parts = values.split([shape.numel() for shape in self.shapes.values()], dim=1)  # one gradient, by one `cat`
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.unflatten(1, shape) for (name, shape), part in named}

    def _block(self, x: Tensor, p: Named, name: str) -> Tensor:  # (heads or 1, B, K, D) -> (heads, B, K, D)
        qkv = _linear(self._norm(x), p, f"{name}.attn.qkv", f"{name}.norm1")
        q, k, v = rearrange(qkv, "n b k (three h d) -> three (n b) h k d", three=3, h=self.heads)
        attended = rearrange(F.scaled_dot_product_attention(q, k, v), "(n b) h k d -> n b k (h d)", b=x.shape[1])
        return self._mlp(x + _linear(attended, p, f"{name}.attn.proj"), p, name)

    def _mlp(self, x: Tensor, p: Named, name: str) -> Tensor:  # (heads, B, K, D)
        hidden = F.gelu(_linear(self._norm(x), p, f"{name}.mlp.fc1", f"{name}.norm2"))
        return x + _linear(hidden, p, f"{name}.mlp.fc2")

    def _cross(self, x: Tensor, p: Named) -> Tensor:
        """`jepa.models.pooler.CrossBlock` of every head: tokens (heads or 1, B, K, D) -> (heads, B, Q, D).

        Tokens that all heads share are read once, by the queries of all of them as if they were one head's.
        """
        plain = self._norm(x)
        queries = p["pooler.query_tokens"]  # (heads, 1, Q, D)
        gain, shift = (p[f"{CROSS}.norm1.{n}"][:, None] for n in ("weight", "bias"))
        q = rearrange(_linear(queries, p, f"{CROSS}.xattn.q"), "n 1 q (h d) -> n h q d", h=self.heads)
        weight = p[f"{CROSS}.xattn.kv.weight"]
        key, value = rearrange(weight, "n (two h d) c -> two n h d c", two=2, h=self.heads)
        asked = rearrange(q @ key, "n h q c -> n (h q) c") * gain / math.sqrt(q.shape[-1])
        asked = rearrange(asked, "(s r) a c -> s 1 (r a) c", s=len(plain))
        gathered = (asked @ plain.mT).softmax(dim=-1) @ plain  # (1, B, heads·H·Q, D) or (heads, B, H·Q, D)
        gathered = rearrange(gathered, "s b (r a) c -> (s r) b a c", r=len(queries) // len(plain))
        gathered = rearrange(gathered, "n b (h q) c -> n h (b q) c", h=self.heads)
        gathered = gathered * gain[:, None] + shift[:, None]
        out = rearrange(gathered @ value.mT, "n h (b q) d -> n b q (h d)", b=x.shape[1])
        bias = p[f"{CROSS}.xattn.kv.bias"][:, None, None, x.shape[-1] :]
        return self._mlp(queries + out + bias, p, CROSS)

    def _norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=self.eps)


def _linear(x: Tensor, p: Named, name: str, norm: str = "") -> Tensor:
    """Every head's linear layer `name` on x (heads or 1, …, I) -> (heads, …, O); gain and bias of `norm` come first."""
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]  # (heads, O, I), (heads, O)
    if norm:
        bias = bias + (weight @ p[f"{norm}.bias"][..., None])[..., 0]
        weight = weight * p[f"{norm}.weight"][:, None]
    rows = x.flatten(1, -2).expand(len(weight), -1, -1)
    return torch.baddbmm(bias[:, None], rows, weight.mT).unflatten(1, x.shape[1:-1])
