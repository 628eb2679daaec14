"""transformers' VJEPA2Model and VJEPA2ForVideoClassification <-> our names: one table, read both ways."""

from typing import Any

import torch
from torch import Tensor

from jepa.interop.fit import check_fit
from jepa.interop.hf_config import from_hf_config
from jepa.interop.model import ModelConfig, skeleton
from jepa.interop.shapes import Choice

Tensors = dict[str, Tensor]

# Ours -> theirs, each a module with weight and bias; several of theirs are the rows of one of ours, in order.
_ENCODER = {"patch_embed.proj": "embeddings.patch_embeddings.proj", "norm": "layernorm"}
_PREDICTOR = {
    "predictor_embed": "embeddings.predictor_embeddings",
    "predictor_norm": "layernorm",
    "predictor_proj": "proj",
}
_MLP = {"mlp.fc1": ("mlp.fc1",), "mlp.fc2": ("mlp.fc2",)}
_BLOCK = {
    "norm1": ("norm1",),
    "norm2": ("norm2",),
    "attn.qkv": ("attention.query", "attention.key", "attention.value"),
    "attn.proj": ("attention.proj",),
    **_MLP,
}
_POOLER_NORMS = {"norm1": ("layer_norm1",), "norm2": ("layer_norm2",)}
_POOLER_BLOCK = {
    **_POOLER_NORMS,
    "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.proj": ("self_attn.out_proj",),
    **_MLP,
}
_POOLER_CROSS = {
    **_POOLER_NORMS,
    "xattn.q": ("cross_attn.q_proj",),
    "xattn.kv": ("cross_attn.k_proj", "cross_attn.v_proj"),
    **_MLP,
}
_MASK_TOKENS = "predictor.embeddings.mask_tokens"  # (K, 1, 1, P), where ours are K tensors (1, 1, P)


def names(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Our name of every tensor, except mask tokens, -> theirs."""
    modules: dict[str, tuple[str, ...]] = {}
    root = "vjepa2." if config.classifier else ""
    e, p, c = config.encoder, config.predictor, config.classifier
    for part, depth, outer in (
        ("encoder", e.depth if e else 0, _ENCODER),
        ("predictor", p.depth if p else 0, _PREDICTOR),
    ):
        blocks = "blocks" if part == "encoder" else "predictor_blocks"
        modules |= {f"{part}.{ours}": (f"{root}{part}.{theirs}",) for ours, theirs in outer.items() if depth}
        for i in range(depth):
            modules |= _prefixed(_BLOCK, f"{part}.{blocks}.{i}.", f"{root}{part}.layer.{i}.")
    if c:
        modules |= {"classifier.linear": ("classifier",)}
        modules |= _prefixed(_POOLER_CROSS, "classifier.pooler.cross_attention_block.", "pooler.cross_attention_layer.")
        for i in range(c.depth - 1):
            modules |= _prefixed(_POOLER_BLOCK, f"classifier.pooler.blocks.{i}.", f"pooler.self_attention_layers.{i}.")
    both = {f"{k}.{w}": tuple(f"{v}.{w}" for v in vs) for k, vs in modules.items() for w in ("weight", "bias")}
    return both | ({"classifier.pooler.query_tokens": ("pooler.query_tokens",)} if c else {})


def to_hf(config: ModelConfig, tensors: Tensors) -> Tensors:
    """Tensors by our names -> by theirs."""
    out: Tensors = {}
    for ours, theirs in names(config).items():
        parts = tensors[ours].chunk(len(theirs))
        out |= {name: part.contiguous() for name, part in zip(theirs, parts, strict=True)}
    if config.mask_tokens:
        queries = [tensors[f"predictor.mask_tokens.{k}"] for k in range(config.mask_tokens)]
        out[("vjepa2." if config.classifier else "") + _MASK_TOKENS] = torch.stack(queries)
    return out


def from_hf(values: dict[str, Any], tensors: Tensors, choice: Choice, where: str) -> tuple[ModelConfig, Tensors]:
    """Config and tensors by our names of a model of transformers, from its config.json and weights.

    Raises:
        CheckpointError: a config that is not of V-JEPA 2, or asks for something that we do not have.
        MismatchError: a tensor is missing, unexpected or mis-shaped; the names are theirs.
    """
    config = from_hf_config(values, tensors, choice, where)
    check_fit(tensors, to_hf(config, skeleton(config).state_dict()), where)
    out = {ours: torch.cat([tensors[name] for name in theirs]) for ours, theirs in names(config).items()}
    if config.mask_tokens:
        queries = tensors[("vjepa2." if config.classifier else "") + _MASK_TOKENS]
        out |= {f"predictor.mask_tokens.{k}": query for k, query in enumerate(queries)}
    return config, out


def _prefixed(table: dict[str, tuple[str, ...]], ours: str, theirs: str) -> dict[str, tuple[str, ...]]:
    return {ours + key: tuple(theirs + name for name in names) for key, names in table.items()}
