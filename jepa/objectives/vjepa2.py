"""V-JEPA 2: predict the features of masked tubes in the space of an EMA target encoder (arXiv 2506.09985, §2.1)."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jepa.config import ConfigError
from jepa.data.clip import Clip
from jepa.data.transforms import normalize
from jepa.masks.base import MaskSampler
from jepa.models.ema import EMA
from jepa.models.encoder import Encoder
from jepa.models.layers import norm_features
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.objectives.base import Objective, ema_momentum, feature_std, take_tokens


@dataclass(frozen=True)
class Config:
    """EMA momentum goes linearly from `ema_start` to `ema_end` over the run; the error is |z - h|^`loss_exp`.

    `mask_token` says what the predictor has a learned query for: each mask config (`per_mask`), or each clip length
    (`per_length`, as the reference trains it); `lengths` are then the frames per clip that the run has, ascending.
    """

    ema_start: float = 0.99925
    ema_end: float = 0.99925
    loss_exp: float = 1.0
    mask_token: str = "per_mask"
    lengths: tuple[int, ...] = ()


class VJEPA2(nn.Module):
    """Encoder, predictor and target encoder in one trainable.

    Loss: mean over mask configs of mean(|z - h|^p) / p of the predicted and the target encoder's features; targets
    are layer-normed without affine, predictions are not.
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
        queries = masks.configs if config.mask_token == "per_mask" else len(config.lengths)
        self.predictor = Predictor(predictor_config, encoder.embed_dim, queries, encoder.rope, generator)
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.ema = EMA((self.target_encoder, encoder))
        self.unused_parameters = config.mask_token == "per_length"  # the queries of other lengths
        self.masks = masks

    def forward(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        """Raises ConfigError for a clip of a length that `objective.lengths` lacks."""
        frames = normalize(clip.frames)
        grid = self.encoder.grid(frames.shape[1], *frames.shape[-2:])
        with torch.no_grad():
            raw = self.target_encoder(frames)
            features = norm_features(raw)  # (B, t·N, D)
        masks = self.masks.sample(grid, clip.sample_id, clip.epoch, clip.step)
        contexts, targets = [mask.context for mask in masks], [mask.target for mask in masks]
        queries = [self._query(number, frames.shape[1]) for number in range(len(masks))]
        # All mask configs in one pass: longer matrix products, and one gradient for each weight.
        seen = self.encoder(frames, contexts)
        predictions = self.predictor(seen, contexts, targets, grid, queries).float()
        losses, cosines = [], []
        for predicted, target in zip(predictions.split([t.shape[1] for t in targets], dim=1), targets, strict=True):
            wanted = take_tokens(features, target)
            losses.append((predicted - wanted).abs().pow(self.config.loss_exp).mean() / self.config.loss_exp)
            cosines.append(nn.functional.cosine_similarity(predicted.detach(), wanted, dim=-1).mean())
        metrics = {f"loss_mask{i}": loss.detach() for i, loss in enumerate(losses)}
        metrics["cosine"] = torch.stack(cosines).mean()
        metrics["feature_std"] = feature_std(raw)
        return torch.stack(losses).mean(), metrics

    def _query(self, mask: int, frames: int) -> int:
        """Which mask token stands for what mask config number `mask` hides of a clip of `frames`."""
        if self.config.mask_token == "per_mask":
            return mask
        if frames not in self.config.lengths:
            raise ConfigError(f"objective.lengths {self.config.lengths}: add {frames}, a clip has that many frames")
        return self.config.lengths.index(frames)

    def after_step(self, step: int, total: int) -> None:
        """EMA of the target encoder; call once after every real optimiser step."""
        momentum = ema_momentum(self.config.ema_start, self.config.ema_end, step, total)
        self.ema.update(momentum)


def build(config: Config, *parts: Any) -> Objective:
    """Build the objective from (encoder, predictor config, mask sampler, generator).

    Raises:
        ConfigError: a `mask_token`, `lengths` or `loss_exp` that has no meaning.
    """
    if config.mask_token not in ("per_mask", "per_length"):
        raise ConfigError(f"objective.mask_token is per_mask or per_length, not {config.mask_token!r}")
    lengths = list(config.lengths)
    if bool(lengths) != (config.mask_token == "per_length") or lengths != sorted(set(lengths)):
        raise ConfigError("objective.lengths: the frames per clip, ascending, with mask_token=per_length; else empty")
    if config.loss_exp <= 0:
        raise ConfigError(f"objective.loss_exp must be positive, not {config.loss_exp:g}")
    return VJEPA2(config, *parts)
