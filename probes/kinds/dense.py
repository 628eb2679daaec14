"""Dense linear probe: each pixel's class or depth from the tokens around it (DINOv2, arXiv 2304.07193, §7.4)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import isnan, isqrt

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils import skip_init

from jepa.config import ConfigError
from jepa.probes.dense.maps import UNKNOWN, has_label, map_sums, scores_of
from jepa.probes.kinds.base import Features, Probe, ProbeError, channel_statistics, split_episodes
from jepa.probes.metrics import Array


@dataclass(frozen=True)
class Config:
    """Every (lr, weight_decay) pair is a head, trained on the same minibatches of images.

    The best on a share `validation` of the images, whole groups of them, is kept. Raises ConfigError for a value that
    cannot be.
    """

    epochs: int = 20
    batch: int = 16
    lr: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    weight_decay: tuple[float, ...] = (1e-3, 0.1)
    validation: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.validation < 1:
            raise ConfigError(f"probe.validation={self.validation:g}: must be between 0 and 1")
        if self.epochs < 1 or self.batch < 1:
            raise ConfigError(f"probe.epochs={self.epochs}, probe.batch={self.batch}: must be at least 1")
        if not self.lr or not self.weight_decay:
            raise ConfigError("probe.lr and probe.weight_decay: must have a value each")


def build(config: Config, generator: np.random.Generator) -> "Dense":
    """An unfitted probe."""
    return Dense(config, generator)


class Dense(Probe):
    """One linear layer on standardised tokens (B, K, D) of a square grid; its map is enlarged bilinearly.

    Targets are maps (B, H, W): classes, uint8 or int64, learned by cross-entropy, or depths in metres, float, whose
    logarithm is learned by squared error. The enlarged map is what is trained, as well as what is scored.
    """

    def __init__(self, config: Config, generator: np.random.Generator) -> None:
        self.config, self.generator = config, generator

    def fit(self, features: Features, targets: Tensor) -> None:  # (B, K, D), (B, H, W)
        c = self.config
        self.size, self.is_depth = targets.shape[-2:], targets.is_floating_point()
        self.mean, self.std = channel_statistics(features.values)
        outputs, middle = _outputs(targets, self.is_depth)
        fit, validate = (
            rows.nonzero()[:, 0] for rows in split_episodes(features.episodes, c.validation, self.generator)
        )
        settings = list(product(c.lr, c.weight_decay))
        width = features.values.shape[-1]
        heads = [skip_init(nn.Linear, width, outputs, device=_device()) for _ in settings]  # draws nothing
        for head in heads:
            nn.init.zeros_(head.weight)
            nn.init.constant_(head.bias, middle)
        groups = [
            {"params": head.parameters(), "lr": lr, "weight_decay": decay}
            for head, (lr, decay) in zip(heads, settings, strict=True)
        ]
        optimizer = torch.optim.AdamW(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, c.epochs * -(-len(fit) // c.batch))
        for rows in _minibatches(
            fit, c.batch, c.epochs, torch.Generator().manual_seed(int(self.generator.integers(2**31)))
        ):
            tokens, truth = self._standardised(features.values[rows]), targets[rows].to(_device())
            for head in heads:  # one after another: the enlarged maps are what fills the memory
                self._loss(self._maps(head, tokens), truth).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        found = [self._sums(head, features, targets, validate, outputs).sum(0) for head in heads]
        scores = [float(scores_of(sums, self.is_depth)[self.metric]) for sums in found]
        ranked = [(not isnan(s), -s if self.is_depth else s) for s in scores]  # a head that diverged is the last
        best = max(range(len(scores)), key=ranked.__getitem__)
        self.head = heads[best]
        self.chosen = {"lr": settings[best][0], "weight_decay": settings[best][1], "validation": scores[best]}

    @property
    def metric(self) -> str:
        """What a head is chosen by: `miou`, the higher the better, or `rmse`, the lower the better."""
        return "rmse" if self.is_depth else "miou"

    @torch.no_grad()
    def predict(self, features: Features) -> Tensor:
        """Maps (B, H, W): classes int64, or depths in metres float32."""
        chunks = torch.arange(len(features)).split(self.config.batch)
        return torch.cat([self._answer(self.head, features.values[rows]).cpu() for rows in chunks])

    def sums(self, features: Features, targets: Tensor, classes: int = 0) -> Array:
        """Sums per image (B, S) that `scores_of` reads, over at least `classes` classes."""
        classes = max(classes, self.head.out_features, _outputs(targets, self.is_depth)[0])
        return self._sums(self.head, features, targets, torch.arange(len(features)), classes)

    def score(self, features: Features, targets: Tensor) -> dict[str, float]:
        sums = self.sums(features, targets).sum(0)
        return {name: float(value) for name, value in scores_of(sums, self.is_depth).items()}

    @torch.no_grad()
    def _sums(self, head: nn.Linear, features: Features, targets: Tensor, rows: Tensor, classes: int) -> Array:
        parts = [
            map_sums(self._answer(head, features.values[ids]), targets[ids].to(_device()), classes)
            for ids in rows.split(self.config.batch)
        ]
        return torch.cat(parts).numpy()

    def _answer(self, head: nn.Linear, tokens: Tensor) -> Tensor:
        maps = self._maps(head, self._standardised(tokens))
        return maps[:, 0].exp() if self.is_depth else maps.argmax(1)

    def _maps(self, head: nn.Linear, tokens: Tensor) -> Tensor:  # (B, K, D) -> (B, C, H, W)
        side = isqrt(tokens.shape[1])
        if side * side != tokens.shape[1]:
            raise ProbeError(f"a dense probe reads tokens of one square image; {tokens.shape[1]} are no square grid")
        small = rearrange(head(tokens), "b (row column) c -> b c row column", row=side)
        return F.interpolate(small, self.size, mode="bilinear", align_corners=False)

    def _loss(self, maps: Tensor, truth: Tensor) -> Tensor:
        known = has_label(truth)
        if self.is_depth:
            error = (maps[:, 0] - torch.where(known, truth, 1.0).log()).square()
        else:
            error = F.cross_entropy(maps, truth.long(), ignore_index=UNKNOWN, reduction="none")
        return (error * known).sum() / known.sum().clamp(min=1)

    def _standardised(self, tokens: Tensor) -> Tensor:
        return ((tokens - self.mean) / self.std).to(_device())


def _outputs(targets: Tensor, is_depth: bool) -> tuple[int, float]:
    """How many numbers a head gives, and where its bias starts: depths at the mean logarithm."""
    known = targets[has_label(targets)]
    if not len(known):
        raise ProbeError("no pixel of the label maps has a label")
    return (1, float(known.log().mean())) if is_depth else (int(known.max()) + 1, 0.0)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _minibatches(rows: Tensor, batch: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Shuffled rows, at most `batch` at a time, none left out."""
    for _ in range(epochs):
        yield from rows[torch.randperm(len(rows), generator=generator)].split(batch)
