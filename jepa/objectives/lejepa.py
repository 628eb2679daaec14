"""LeJEPA: no teacher and no stop-gradient; SIGReg alone forbids collapse (arXiv 2511.08544), here on masked video."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa.config import ConfigError
from jepa.data.clip import Clip
from jepa.data.transforms import normalize
from jepa.masks.base import MaskSampler
from jepa.models.encoder import Encoder
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.objectives.base import Objective, feature_std, take_tokens


@dataclass(frozen=True)
class Config:
    """Loss: (1 - `sigreg_weight`) · squared error of prediction + `sigreg_weight` · SIGReg.

    SIGReg looks along `projections` random directions, new at every step, with `knots` points of quadrature.
    """

    sigreg_weight: float = 0.05
    projections: int = 256
    knots: int = 17


class LeJEPA(nn.Module):
    """One encoder and a predictor: the features of masked tokens are predicted in the encoder's own space.

    A sample of SIGReg is a clip of the batch of this process; each place in the grid is tested apart. Tokens of one
    clip are no independent samples, and taken together a code of nothing but the place could look normal.
    """

    unused_parameters = False

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
        self.predictor = Predictor(predictor_config, encoder.embed_dim, masks.configs, encoder.rope, generator)
        self.masks = masks
        self._seed = int(torch.randint(2**62, (), generator=generator))

    @property
    def target_encoder(self) -> Encoder:
        """The encoder itself: there is no average of it."""
        return self.encoder

    def forward(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        frames = normalize(clip.frames)
        grid = self.encoder.grid(frames.shape[1], *frames.shape[-2:])
        features = self.encoder(frames).float()  # (B, t·N, D), with gradient
        losses, cosines = [], []
        for number, mask in enumerate(self.masks.sample(grid, clip.sample_id, clip.epoch, clip.step)):
            context = self.encoder(frames, mask.context)
            predicted = self.predictor(context, mask.context, mask.target, grid, mask_index=number).float()
            wanted = take_tokens(features, mask.target)
            losses.append(F.mse_loss(predicted, wanted))
            cosines.append(F.cosine_similarity(predicted.detach(), wanted.detach(), dim=-1).mean())
        prediction = torch.stack(losses).mean()
        directions = random_directions(features.shape[-1], self.config.projections, (self._seed, clip.step))
        gaussianity = sigreg(features, directions.to(features), self.config.knots)
        metrics = {f"loss_mask{i}": loss.detach() for i, loss in enumerate(losses)}
        metrics["sigreg"] = gaussianity.detach()
        metrics["std"] = features.detach().std(0, correction=0).mean()
        metrics["cosine"] = torch.stack(cosines).mean()
        metrics["feature_std"] = feature_std(features)
        weight = self.config.sigreg_weight
        return (1 - weight) * prediction + weight * gaussianity, metrics

    def after_step(self, step: int, total: int) -> None:
        """Nothing follows a step."""


@torch.compiler.disable
def random_directions(dim: int, count: int, key: tuple[int, int]) -> Tensor:
    """Unit vectors (dim, count), uniform on the sphere; a pure function of (seed, step), the same on every process."""
    rng = np.random.default_rng(key)
    return F.normalize(torch.from_numpy(rng.standard_normal((dim, count), dtype=np.float32)), dim=0)


def sigreg(samples: Tensor, directions: Tensor, knots: int) -> Tensor:
    """How far samples (n, ..., D) are from N(0, I), seen along unit directions (D, S): a scalar.

    The mean, over directions and the axes between, of the Epps–Pulley statistic of the n projections: n times the
    integral of |φ(t) - exp(-t²/2)|² · exp(-t²/2), φ their characteristic function, by the trapezoid rule with `knots`
    points on [-5, 5]. Normal samples score √(2π) - √(2π/3) = 1.06 in the mean, whatever n; a single point, 0.41 · n
    and more.
    """
    projected = (samples @ directions).float()  # (n, ..., S)
    step = 10.0 / (knots - 1)
    total = projected.new_zeros(projected.shape[1:])
    for knot in range(knots // 2):  # from 5 downwards; the integrand is even, and zero at t = 0
        t = 5.0 - knot * step
        normal = float(np.exp(-t * t / 2))
        angle = t * projected
        distance = (angle.cos().mean(0) - normal).square() + angle.sin().mean(0).square()
        total = total + step * normal * distance  # the ends, at 4e-6, need no half weight
    return 2 * len(samples) * total.mean()


def build(config: Config, *parts: Any) -> Objective:
    """Build the objective from (encoder, predictor config, mask sampler, generator).

    Raises:
        ConfigError: a weight outside [0, 1], or too few projections or knots.
    """
    if not 0 <= config.sigreg_weight <= 1:
        raise ConfigError(f"objective.sigreg_weight must lie in [0, 1], not {config.sigreg_weight:g}")
    if config.projections < 1 or config.knots < 3:
        raise ConfigError("objective.projections must be at least 1 and objective.knots at least 3")
    return LeJEPA(config, *parts)
