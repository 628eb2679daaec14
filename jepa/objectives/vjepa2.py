"""V-JEPA 2: predict the features of masked tubes in the space of an EMA target encoder (arXiv 2506.09985, §2.1)."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jepa.data.clip import Clip
from jepa.data.transforms import normalize
from jepa.masks.base import MaskSampler
from jepa.models.ema import update_ema
from jepa.models.encoder import Encoder
from jepa.models.layers import norm_features
from jepa.models.predictor import Predictor, PredictorConfig


@dataclass(frozen=True)
class Config:
    """EMA momentum goes linearly from `ema_start` to `ema_end` over the run."""

    ema_start: float = 0.99925
    ema_end: float = 0.99925


class VJEPA2(nn.Module):
    """Encoder, predictor and target encoder in one trainable.

    Loss: mean over mask configs of the mean absolute error between the predicted and the target encoder's
    features; targets are layer-normed without affine, predictions are not.
    """

    def __init__(
        self,
        config: Config,
        encoder: Encoder,
        predictor_config: PredictorConfig,
        masks: MaskSampler,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.predictor = Predictor(
            predictor_config, encoder.embed_dim, masks.configs, encoder.config.rope_layout, generator
        )
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.masks = masks

    def forward(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        frames = normalize(clip.frames)
        grid = self.encoder.grid(frames.shape[1], *frames.shape[-2:])
        with torch.no_grad():
            features = norm_features(self.target_encoder(frames))  # (B, t·N, D)
        losses, cosines = [], []
        masks = self.masks.sample(grid, clip.sample_id, clip.epoch, clip.step)
        for index, mask in enumerate(masks):
            context = self.encoder(frames, mask.context)
            predicted = self.predictor(context, mask.context, mask.target, grid, mask_index=index).float()
            wanted = features.gather(1, mask.target[..., None].expand(-1, -1, features.shape[-1]))
            losses.append((predicted - wanted).abs().mean())
            cosines.append(nn.functional.cosine_similarity(predicted.detach(), wanted, dim=-1).mean())
        metrics = {f"loss_mask{i}": loss.detach() for i, loss in enumerate(losses)}
        metrics["cosine"] = torch.stack(cosines).mean()
        return torch.stack(losses).mean(), metrics

    def after_step(self, step: int, total: int) -> None:
        """EMA of the target encoder; call once after every real optimiser step."""
        progress = step / total
        momentum = self.config.ema_start + (self.config.ema_end - self.config.ema_start) * progress
        update_ema(self.target_encoder, self.encoder, momentum)


def build(config: Config, *parts: Any) -> VJEPA2:
    """Build the objective from (encoder, predictor config, mask sampler, generator)."""
    return VJEPA2(config, *parts)
