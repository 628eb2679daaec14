"""Attentive probe: a learned query pools the tokens; several (lr, weight decay) heads at once (V-JEPA 2)."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jepa.probes.attentive_heads import Heads, HeadsConfig, device
from jepa.probes.kinds.base import Features, Probe, score_sums
from jepa.probes.metrics import balanced_accuracy


@dataclass(frozen=True)
class Config(HeadsConfig):
    """The heads, and how they are trained."""


def build(config: Config, generator: np.random.Generator) -> "Attentive":
    """An unfitted probe."""
    return Attentive(config, generator)


class Attentive(Probe):
    """Cross-entropy in which classes count alike; keeps the head of the best balanced accuracy on held-out episodes."""

    def __init__(self, config: Config, generator: np.random.Generator) -> None:
        self.heads = Heads(config, generator)

    def fit(self, features: Features, targets: Tensor) -> None:  # (B, K, D), (B)
        count = torch.bincount(targets)
        weight = (len(targets) / (count.clamp(min=1) * (count > 0).sum())).to(device())

        def loss(logits: Tensor, rows: Tensor, part: slice) -> Tensor:  # (n, b, C), (B) -> (n)
            labels = targets[rows].to(weight.device)
            wanted = labels[part].repeat(len(logits))
            each = F.cross_entropy(logits.flatten(0, 1), wanted, weight, reduction="none")
            return each.view(len(logits), -1).sum(1) / weight[labels].sum()

        def score(logits: Tensor, rows: Tensor) -> list[float]:
            truth = targets[rows]
            return [float(balanced_accuracy(score_sums(p, truth).sum(0))) for p in logits.argmax(2)]

        self.heads.fit(features, len(count), loss, score)
        self.model, self.chosen = self.heads.model, self.heads.chosen

    def predict(self, features: Features) -> Tensor:
        return self.heads.outputs(features).argmax(1)

    def predict_all(self, features: Features) -> list[Tensor]:
        """Classes (B) by each head that was trained to the end; what they score is no basis for a choice."""
        return list(self.heads.all_outputs(features).argmax(2))
