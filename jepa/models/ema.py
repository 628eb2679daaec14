"""The exponential moving average that the target encoder is."""

import torch
from torch import nn


@torch.no_grad()
def update_ema(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """target <- momentum · target + (1 - momentum) · online, all parameters in one fused call; fp32 expected."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1.0 - momentum)
