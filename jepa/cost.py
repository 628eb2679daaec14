"""What a pre-training run costs, by formula: parameters, FLOPs of a step by part, bytes of a GPU's memory.

A multiplication and an addition are two FLOPs. Only matrix products and attention count; they are nearly all.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from jepa.config import build
from jepa.models.encoder import Encoder, build_encoder
from jepa.pretrain import PretrainConfig

ENGINES = ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3")

Sizes = Sequence[tuple[int, int]]
"""Tokens (Kc, Kt) of each mask config."""


class Flops(NamedTuple):
    """Of one clip in one network: forward, backward, and what full activation checkpointing does a second time."""

    forward: int
    backward: int
    recompute: int

    def total(self, checkpointing: str) -> int:
        """Of a step; `selective` checkpointing repeats no matrix product."""
        return self.forward + self.backward + (self.recompute if checkpointing == "full" else 0)


class State(NamedTuple):
    """Bytes on each GPU that last from step to step."""

    weights: float
    master: float
    moments: float
    gradients: float
    target: float


def build_objective(config: PretrainConfig) -> nn.Module:
    """The objective of a run; its encoders are on the meta device: shapes without numbers, so of any size."""
    with torch.device("meta"):
        encoder = build_encoder(config.encoder, config.seed)
    return build(config.objective, encoder, config.predictor, build(config.masks, config.seed), torch.Generator())


def parameters(module: nn.Module, trained: bool) -> int:
    """Number of the parameters that are trained, or of those that are not."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad == trained)


def mask_sizes(config: PretrainConfig, grid: tuple[int, int, int], clips: int, steps: int = 4) -> Sizes:
    """Tokens of each mask config; where they differ from step to step (`batch_min`) the mean of a few."""
    sampler = build(config.masks, config.seed)
    ids, epochs = torch.arange(clips), torch.zeros(clips, dtype=torch.int64)
    drawn = [sampler.sample(grid, ids, epochs, step) for step in range(steps)]
    sizes = torch.tensor([[(m.context.shape[1], m.target.shape[1]) for m in masks] for masks in drawn])
    return [(int(context), int(target)) for context, target in sizes.double().mean(0).round().tolist()]


def step_flops(objective: nn.Module, tokens: int, masks: Sizes) -> dict[str, Flops]:
    """FLOPs of a clip of `tokens` tokens, by part: `target`, and for each mask config `context i`, `predictor i`."""
    shared = objective.target_encoder is objective.encoder  # LeJEPA: the target is trained
    full = encoder_flops(objective.encoder, tokens)
    parts = {"target": full if shared else Flops(full.forward, 0, 0)}
    for i, (context, target) in enumerate(masks):
        parts[f"context {i}"] = encoder_flops(objective.encoder, context)
        parts[f"predictor {i}"] = predictor_flops(objective.predictor, context, target)
    return parts


def encoder_flops(encoder: Encoder, tokens: int) -> Flops:
    """`tokens` kept tokens; their pixels need no gradient."""
    embed, blocks = 2 * tokens * _weights(encoder.patch_embed), _blocks_flops(encoder.blocks, tokens, tokens)
    return Flops(embed + blocks.forward, embed + blocks.backward, blocks.recompute)


def predictor_flops(predictor: nn.Module, context: int, target: int) -> Flops:
    """Embeds the context, runs blocks over all tokens, projects the target (V-JEPA 2.1: the context as well)."""
    ends = 2 * context * _weights(predictor.predictor_embed) + 2 * target * _weights(predictor.predictor_proj)
    out, alike = target, target - 1  # of the last block; mask tokens that the first block need not take again
    if hasattr(predictor, "predictor_proj_context"):
        ends += 2 * context * _weights(predictor.predictor_proj_context)
        out, alike = out + context, 0
    blocks = _blocks_flops(predictor.predictor_blocks, context + target, out)
    saved = 2 * alike * _weights(predictor.predictor_blocks[0].attn.qkv)
    return Flops(ends + blocks.forward - saved, 2 * ends + blocks.backward - 2 * saved, blocks.recompute - saved)


def _blocks_flops(blocks: nn.ModuleList, tokens: int, out: int) -> Flops:
    """Of `tokens` tokens, of which only `out` come out of the last block."""
    each = [_block_flops(block, tokens, tokens) for block in blocks[:-1]] + [_block_flops(blocks[-1], tokens, out)]
    return Flops(*(sum(parts) for parts in zip(*each, strict=True)))


def _block_flops(block: nn.Module, tokens: int, out: int) -> Flops:
    forward = 2 * tokens * _weights(block.attn.qkv) + 4 * tokens * out * _width(block)
    forward += 2 * out * _weights(block.attn.proj, block.mlp)
    # A block that is done again stops before its last product: the backward pass needs no output.
    last = 2 * out * _weights(block.mlp.fc3 if _gated(block) else block.mlp.fc2)
    return Flops(forward, 2 * forward, forward - last)


def activation_bytes(objective: nn.Module, tokens: int, masks: Sizes, checkpointing: str, size: int) -> int:
    """What the forward pass of one clip keeps for the backward pass, an estimate; `size` is that of a number.

    All mask configs are kept at once, and go through a block together: a little too much for objectives that take them
    one after the other. With checkpointing one block at a time is whole again. Left out are what a kernel needs while
    it runs, and what the allocator cannot use.
    """
    encoder, predictor = objective.encoder.blocks, objective.predictor.predictor_blocks
    runs = [(encoder, sum(context for context, _ in masks)), (predictor, sum(map(sum, masks)))]
    if objective.target_encoder is objective.encoder:
        runs.append((encoder, tokens))
    kept = sum(len(blocks) * length * _kept(blocks[0], checkpointing, size) for blocks, length in runs)
    whole = max(length * _kept(blocks[0], "none", size) for blocks, length in runs)
    features = 4 * tokens * objective.predictor.predictor_proj.out_features
    return kept + features + (whole if checkpointing != "none" else 0)


def _kept(block: nn.Module, checkpointing: str, size: int) -> int:
    """Bytes that a block keeps of a token."""
    width, hidden = _width(block), block.mlp.fc1.out_features
    if checkpointing == "full":  # its input
        return width * size
    if checkpointing == "selective":  # also the products: queries, keys and values, attention, and the two of the MLP
        return (7 * width + hidden * (2 if _gated(block) else 1)) * size
    # Norms read fp32, also under autocast. Turned queries and keys come beside those that came out of the product, and
    # the attention of all mask configs, joined, beside that of each.
    return 2 * width * 4 + (9 * width + hidden * (4 if _gated(block) else 2)) * size


def state_bytes(engine: str, trained: int, target: int, gpus: int, size: int) -> State:
    """Of so many trained and target parameters under an engine of ENGINES; `size` is that of a computing weight.

    DDP computes with the fp32 master by autocast, and has buckets as large as the gradients. ZeRO shares out master
    and moments, from stage 2 gradients, in stage 3 weights; its EMA target is in computing weights and fp32.
    """
    if engine == "DDP":
        return State(0, 4 * trained, 8 * trained, (4 if gpus == 1 else 8) * trained, 4 * target)
    stage = ENGINES.index(engine)
    weights, gradients = (size * trained / (gpus if stage >= least else 1) for least in (3, 2))
    return State(
        weights, 4 * trained / gpus, 8 * trained / gpus, gradients, (size + 4) * target / (gpus if stage == 3 else 1)
    )


def hours(flops_per_clip: float, clips: int, gpus: int, tflops: float) -> float:
    """Of `clips` clips on so many GPUs that each achieve `tflops` TFLOP/s, and never wait for data."""
    return flops_per_clip * clips / (gpus * tflops * 1e12) / 3600


def _weights(*modules: nn.Module) -> int:
    """Numbers in weight matrices: the multiplications of one token."""
    parts: Iterable[nn.Module] = (part for module in modules for part in module.modules())
    return sum(part.weight.numel() for part in parts if isinstance(part, nn.Linear | nn.Conv3d))


def _width(block: nn.Module) -> int:
    return block.attn.proj.out_features


def _gated(block: nn.Module) -> bool:
    return hasattr(block.mlp, "fc3")
