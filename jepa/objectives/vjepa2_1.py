"""V-JEPA 2.1: V-JEPA 2 (arXiv 2506.09985) with a loss on visible tokens too, at several depths, on video and images."""

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
from jepa.models.levels import Levels, LevelsPredictor, level_blocks
from jepa.models.predictor import PredictorConfig
from jepa.objectives.base import Objective, ema_momentum, feature_std, take_tokens


@dataclass(frozen=True)
class Config:
    """EMA momentum goes linearly from `ema_start` to `ema_end` over the run.

    The loss on visible tokens counts nothing until step `ramp_start`, then linearly more until, from `ramp_end` on,
    its weight is `context_weight`, or `context_weight_image` for images. `levels` are the blocks, from 0, whose
    outputs are predicted; empty: the ends of four equal parts of the encoder.
    """

    ema_start: float = 0.99925
    ema_end: float = 0.99925
    context_weight: float = 0.5
    context_weight_image: float = 0.5
    ramp_start: int = 15_000
    ramp_end: int = 30_000
    levels: tuple[int, ...] = ()


class VJEPA21(nn.Module):
    """Encoder, predictor and target encoder in one trainable; both encoders are read at several depths.

    Loss: mean over mask configs of mean |z - h| on masked tokens, plus a weight times the mean of |z - h| / √d on
    visible ones, d being the distance to the nearest masked token. Targets are layer-normed without affine, each
    level for itself. A clip of one frame is an image.
    """

    unused_parameters = True  # those for images in a step on video, and the other way round

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
        depth = encoder.config.depth
        blocks = config.levels or level_blocks(depth)
        if list(blocks) != sorted(set(blocks)) or blocks[0] < 0 or blocks[-1] != depth - 1:
            raise ConfigError(f"objective.levels: blocks from 0, ascending, the last {depth - 1}; not {list(blocks)}")
        self.levels = Levels(encoder, blocks, generator)
        self.predictor = LevelsPredictor(
            predictor_config, encoder.embed_dim, len(blocks), masks.configs, encoder.rope, generator
        )
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.target_levels = copy.deepcopy(self.levels).requires_grad_(False)
        self.ema = EMA((self.target_encoder, encoder), (self.target_levels, self.levels))
        self.masks = masks

    def forward(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        frames = normalize(clip.frames)
        image = frames.shape[1] == 1
        grid = self.encoder.grid(frames.shape[1], *frames.shape[-2:])
        with torch.no_grad():
            levels = self.target_levels(self.target_encoder, frames)
            features = torch.cat([norm_features(level) for level in levels], dim=-1)  # (B, t·N, L·D)
        masked, visible, cosines = [], [], []
        for number, mask in enumerate(self.masks.sample(grid, clip.sample_id, clip.epoch, clip.step)):
            context = torch.cat(self.levels(self.encoder, frames, mask.context), dim=-1)
            z, z_context = self.predictor(context, mask.context, mask.target, grid, number, image)
            h, h_context = take_tokens(features, mask.target), take_tokens(features, mask.context)
            masked.append((z.float() - h).abs().mean())
            nearness = take_tokens(distance_to_masked(mask.target, grid)[..., None], mask.context).rsqrt()
            visible.append(((z_context.float() - h_context).abs() * nearness).mean())
            cosines.append(nn.functional.cosine_similarity(z.detach().float(), h, dim=-1).mean())
        weight = self._context_weight(clip.step, image)
        metrics = {f"loss_mask{i}": loss.detach() for i, loss in enumerate(masked)}
        metrics["loss_context"] = torch.stack(visible).mean().detach()
        metrics["cosine"] = torch.stack(cosines).mean()
        metrics["feature_std"] = feature_std(levels[-1])
        return torch.stack(masked).mean() + weight * torch.stack(visible).mean(), metrics

    def _context_weight(self, step: int, image: bool) -> float:
        """Weight of the loss on visible tokens at `step`."""
        c = self.config
        ramp = min(1.0, max(0, step - c.ramp_start) / max(1, c.ramp_end - c.ramp_start))
        return ramp * (c.context_weight_image if image else c.context_weight)

    def after_step(self, step: int, total: int) -> None:
        """EMA of the target encoder and its levels; call once after every real optimiser step."""
        momentum = ema_momentum(self.config.ema_start, self.config.ema_end, step, total)
        self.ema.update(momentum)


def distance_to_masked(target: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Token ids (B, K) -> distance (B, t·N) of every token of the grid to the nearest of these, in tokens.

    Exact, one axis after the other: the least sum of squares over three axes is three minima in a row.
    """
    squared = torch.full((len(target), grid[0] * grid[1] * grid[2]), torch.inf, device=target.device)
    squared = squared.scatter(1, target, 0.0).unflatten(1, grid)
    for axis, length in enumerate(grid, start=1):
        place = torch.arange(length, device=target.device)
        step = (place[:, None] - place).square()  # (to, from)
        squared = (squared.movedim(axis, -1)[..., None, :] + step).amin(-1).movedim(-1, axis)
    return squared.flatten(1).sqrt()


def build(config: Config, *parts: Any) -> Objective:
    """Build the objective from (encoder, predictor config, mask sampler, generator).

    Raises:
        ConfigError: levels that are not ascending blocks up to the encoder's last.
    """
    return VJEPA21(config, *parts)
