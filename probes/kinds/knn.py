"""k-nearest-neighbour probe: cosine similarity and a softly weighted vote (DINO, arXiv 2104.14294, §4.1)."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jepa.config import ConfigError
from jepa.probes.kinds.base import Features, Probe, channel_statistics


@dataclass(frozen=True)
class Config:
    """`k` neighbours vote with weight exp(cosine / temperature). Raises ConfigError where one is not above 0."""

    k: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"knn.k={self.k}: at least 1 neighbour must vote")
        if self.temperature <= 0:
            raise ConfigError(f"knn.temperature={self.temperature:g}: must be above 0")


def build(config: Config, generator: np.random.Generator) -> "NearestNeighbours":
    """An unfitted probe; it has nothing to draw, so the generator goes unused."""
    return NearestNeighbours(config)


class NearestNeighbours(Probe):
    """Chooses nothing. Standardises first: raw features share a mean that makes all cosines alike."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def fit(self, features: Features, targets: Tensor) -> None:  # (B, D), (B)
        self.mean, self.std = channel_statistics(features.values)
        self.bank = self._unit(features.values)
        self.votes = F.one_hot(targets).float()  # (B, C)
        self.chosen: dict[str, float] = {}

    def predict(self, features: Features) -> Tensor:
        cosine = self._unit(features.values) @ self.bank.T  # (test, train)
        top, who = cosine.topk(min(self.config.k, len(self.bank)), dim=1)
        weight = ((top - 1) / self.config.temperature).exp()  # the largest possible is 1: no overflow
        return torch.einsum("bk,bkc->bc", weight, self.votes[who]).argmax(1)

    def _unit(self, values: Tensor) -> Tensor:
        return F.normalize((values - self.mean) / self.std, dim=1)
