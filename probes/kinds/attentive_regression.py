"""Attentive regression: values read from pooled tokens; several (lr, weight decay) heads at once (V-JEPA 2)."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from jepa.probes.attentive_heads import Heads, HeadsConfig
from jepa.probes.kinds.base import Features, Probe, channel_statistics, score_sums
from jepa.probes.metrics import r2


@dataclass(frozen=True)
class Config(HeadsConfig):
    """The heads, and how they are trained."""


def build(config: Config, generator: np.random.Generator) -> "AttentiveRegression":
    """An unfitted probe."""
    return AttentiveRegression(config, generator)


class AttentiveRegression(Probe):
    """Squared error of standardised values; keeps the head of the best R² on held-out episodes."""

    def __init__(self, config: Config, generator: np.random.Generator) -> None:
        self.heads = Heads(config, generator)

    def fit(self, features: Features, targets: Tensor) -> None:  # (B, K, D), (B, O)
        targets = targets.float()
        self.mean, self.std = channel_statistics(targets)

        def loss(outputs: Tensor, rows: Tensor, part: slice) -> Tensor:  # (n, b, O), (B) -> (n)
            wanted = (targets[rows[part]] - self.mean) / self.std
            return (outputs - wanted.to(outputs.device)).square().mean(2).sum(1) / len(rows)

        def score(outputs: Tensor, rows: Tensor) -> list[float]:
            return [float(r2(score_sums(self._values(each), targets[rows]).sum(0))) for each in outputs]

        self.heads.fit(features, targets.shape[1], loss, score)
        self.model, self.chosen = self.heads.model, self.heads.chosen

    def predict(self, features: Features) -> Tensor:
        return self._values(self.heads.outputs(features))

    def predict_all(self, features: Features) -> list[Tensor]:
        """Values (B, O) by each head that was trained to the end; what they score is no basis for a choice."""
        return [self._values(each) for each in self.heads.all_outputs(features)]

    def _values(self, outputs: Tensor) -> Tensor:
        """Outputs (B, O) in the targets' units."""
        return outputs * self.std + self.mean
