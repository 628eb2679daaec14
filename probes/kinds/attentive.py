"""Attentive probe: a learned query pools the tokens; several (lr, weight decay) heads at once (V-JEPA 2)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jepa.models.pooler import AttentiveClassifier, build_classifier
from jepa.probes.kinds.base import (
    Features,
    Probe,
    channel_statistics,
    score_sums,
    split_episodes,
)
from jepa.probes.metrics import balanced_accuracy


@dataclass(frozen=True)
class Config:
    """Depth counts the cross-attention block: 1 is that alone, 4 puts three self-attention blocks before it.

    Every (lr, weight_decay) pair is a head of its own, trained on the same minibatches; the best on a share
    `validation` of the episodes is kept.
    """

    depth: int = 4
    heads: int = 16
    epochs: int = 20
    batch: int = 256
    lr: tuple[float, ...] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    weight_decay: tuple[float, ...] = (0.01, 0.1, 0.4, 0.8)
    validation: float = 0.2


def build(config: Config, generator: np.random.Generator) -> "Attentive":
    """An unfitted probe."""
    return Attentive(config, generator)


class Attentive(Probe):
    """Trains every head with AdamW and a cosine schedule; keeps the best on held-out episodes."""

    def __init__(self, config: Config, generator: np.random.Generator) -> None:
        self.config, self.generator = config, generator

    def fit(self, features: Features, targets: Tensor) -> None:  # (B, K, D), (B)
        c = self.config
        self.mean, self.std = channel_statistics(features.values)
        fit, validate = split_episodes(features.episodes, c.validation, self.generator)
        train, held_out = features.rows(fit), features.rows(validate)
        torch_generator = torch.Generator().manual_seed(int(self.generator.integers(2**31)))
        width, device = features.values.shape[-1], _device()
        count = torch.bincount(targets)
        weight = (len(targets) / (count.clamp(min=1) * (count > 0).sum())).to(device)  # classes count alike
        settings = list(product(c.lr, c.weight_decay))
        models = [build_classifier(width, len(count), c.depth, c.heads, torch_generator).to(device) for _ in settings]
        optimizers = [
            torch.optim.AdamW(m.parameters(), lr=lr, weight_decay=decay, fused=True)
            for m, (lr, decay) in zip(models, settings, strict=True)
        ]
        labels = targets[fit]
        for rows, share in _minibatches(len(train), c.batch, c.epochs, torch_generator):
            x = self._standardised(train.values[rows])
            for model, optimizer, (lr, _) in zip(models, optimizers, settings, strict=True):
                optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * share))
                loss = F.cross_entropy(model(x), labels[rows].to(device), weight)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        sums = [score_sums(self._classes(model, held_out), targets[validate]).sum(0) for model in models]
        scores = [float(balanced_accuracy(s)) for s in sums]
        best = max(range(len(scores)), key=scores.__getitem__)
        self.model = models[best]
        self.chosen = {"lr": settings[best][0], "weight_decay": settings[best][1], "validation": scores[best]}

    def predict(self, features: Features) -> Tensor:
        return self._classes(self.model, features)

    @torch.no_grad()
    def _classes(self, model: AttentiveClassifier, features: Features) -> Tensor:
        chunks = features.values.split(self.config.batch)
        return torch.cat([model(self._standardised(x)).argmax(1).cpu() for x in chunks])

    def _standardised(self, tokens: Tensor) -> Tensor:
        return ((tokens - self.mean) / self.std).to(_device())


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _minibatches(rows: int, batch: int, epochs: int, generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
    """Shuffled row ids (≤ batch), each with the share of the training that lies behind it."""
    for epoch in range(epochs):
        order = torch.randperm(rows, generator=generator)
        for start in range(0, rows, batch):
            yield order[start : start + batch], (epoch + start / rows) / epochs
