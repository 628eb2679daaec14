"""The reference's training step, for benchmarks: its loss, its AdamW and its moving average, on `model.py`."""

import copy

import torch
import torch.nn.functional as F
from reference.model import Encoder, Predictor, gather
from torch import Tensor, nn

from jepa.data.clip import Clip
from jepa.data.transforms import normalize
from jepa.masks.base import MaskSampler


class Reference(nn.Module):
    """What `jepa.objectives.vjepa2` computes: same parameters, same loss, the reference's operations."""

    def __init__(self, encoder: Encoder, predictor: Predictor, masks: MaskSampler, momentum: float) -> None:
        super().__init__()
        self.encoder, self.predictor, self.masks, self.momentum = encoder, predictor, masks, momentum
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)

    def forward(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over mask configs of the mean absolute error in the target encoder's normed features."""
        frames = normalize(clip.frames)
        grid = self.encoder.grid(frames)
        with torch.no_grad():
            features = self.target_encoder(frames)
            features = F.layer_norm(features.float(), features.shape[-1:])
        losses = []
        for index, mask in enumerate(self.masks.sample(grid, clip.sample_id, clip.epoch, clip.step)):
            context = self.encoder(frames, mask.context)
            predicted = self.predictor(context, mask.context, mask.target, grid, index)
            # The error's exponent is 1 in every recipe, and taken all the same.
            losses.append((predicted - gather(features, mask.target)).abs().pow(1.0).mean() / 1.0)
        return sum(losses) / len(losses), {}

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        """EMA of the target encoder: multiply, then add."""
        target = list(self.target_encoder.parameters())
        torch._foreach_mul_(target, self.momentum)
        torch._foreach_add_(target, list(self.encoder.parameters()), alpha=1 - self.momentum)


def build_adamw(model: Reference, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """torch's AdamW as it comes; groups {encoder, predictor} × {weights, biases and one-dimensional}."""
    groups = []
    for part in (model.encoder, model.predictor):
        named = list(part.named_parameters())
        free = [p for n, p in named if "bias" in n or p.ndim == 1]
        decayed = [p for n, p in named if "bias" not in n and p.ndim > 1]
        groups += [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr)
