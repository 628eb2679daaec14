"""Activation checkpointing: what a block keeps for the backward pass, and what it computes a second time."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

MODES = ("none", "selective", "full")

_DEAR = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
]
"""Operations whose results `selective` keeps: nearly all the arithmetic is in them."""


def check_mode(mode: str) -> None:
    """Raises ValueError where `mode` is not one of MODES."""
    if mode not in MODES:
        raise ValueError(f"checkpointing is 'none', 'selective' or 'full', not '{mode}'")


def run_block(block: nn.Module, mode: str, x: Tensor, *others: object) -> Tensor:
    """`block(x, *others)`; values and gradients are the same in every mode.

    `none` keeps all activations. `selective` keeps the results of matrix products and attention and repeats what
    is cheap: norms, rotary turns, the activation function. `full` keeps the inputs and repeats the whole block.
    """
    if mode == "none" or not torch.is_grad_enabled():
        return block(x, *others)
    # Blocks draw nothing (drop path is drawn before them), so no global random state need be kept for the second pass.
    again = partial(checkpoint, block, x, *others, use_reentrant=False, preserve_rng_state=False)
    if mode == "full":
        return again()
    # Autocast's cache of cast weights is empty again in the second pass, which must see the casts of the first.
    device = x.device.type
    with torch.autocast(device, enabled=torch.is_autocast_enabled(device), cache_enabled=False):
        return again(context_fn=partial(create_selective_checkpoint_contexts, _DEAR))
