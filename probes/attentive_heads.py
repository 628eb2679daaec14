"""What the attentive probes share: heads of all (lr, weight decay) pairs, the best kept on held-out episodes."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from jepa.config import ConfigError
from jepa.models.pooler import AttentiveClassifier, build_classifier
from jepa.probes.kinds.base import Features, ProbeError, channel_statistics, split_episodes
from jepa.probes.sweep import Setting, Sweep, better_half, rungs


@dataclass(frozen=True)
class HeadsConfig:
    """Depth counts the cross-attention block: 1 is that alone, 4 puts three self-attention blocks before it.

    Every (lr, weight_decay) pair is a head of its own, trained on the same minibatches; the best on a share
    `validation` of the episodes is kept. `halving` drops the worse half of the heads that many times on the way, by
    those same episodes: 3 does a third of the work. Raises ConfigError for a value that cannot be.
    """

    depth: int = 4
    heads: int = 16
    epochs: int = 20
    batch: int = 256
    lr: tuple[float, ...] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    weight_decay: tuple[float, ...] = (0.01, 0.1, 0.4, 0.8)
    validation: float = 0.2
    halving: int = 0

    def __post_init__(self) -> None:
        kind = type(self).__module__.rpartition(".")[2]  # under which its values are given
        if self.halving < 0:
            raise ConfigError(f"{kind}.halving is how often the heads are halved, 0 or more, not {self.halving}")
        if not 0 < self.validation < 1:
            raise ConfigError(f"{kind}.validation={self.validation:g}: must be between 0 and 1")
        for key in ("depth", "heads", "epochs", "batch"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{kind}.{key}={getattr(self, key)}: must be at least 1")
        if not self.lr or not self.weight_decay:
            raise ConfigError(f"{kind}.lr and {kind}.weight_decay: must have a value each")


UNDEFINED = torch.finfo(torch.float64).min
"""Stands for a score that is NaN, such as R² of one clip: below all others, and above that of a head that diverged."""


class Heads:
    """Heads of one probe. `fit` leaves the chosen one in `model` and how it was chosen in `chosen`.

    `work` is the share of the full sweep's training that was done. Where no score is defined on the held-out episodes,
    the first of the heads whose outputs are finite is taken, and its validation score is NaN.
    """

    def __init__(self, config: HeadsConfig, generator: np.random.Generator) -> None:
        self.config, self.generator = config, generator

    def fit(
        self,
        features: Features,
        outputs: int,
        loss: Callable[[Tensor, Tensor, slice], Tensor],
        score: Callable[[Tensor, Tensor], list[float]],
    ) -> None:
        """Train on tokens (B, K, D), every head with so many `outputs` O.

        `loss(outputs (n, b, O), rows, part) -> (n)`, on the device, is what rows[part] (b) add to the loss of the
        minibatch `rows`; `score(outputs (heads, b, O), rows (b))` a number a head, on the CPU. Rows number the clips
        of `features`.

        Raises:
            ProbeError: fewer than two episodes, or no head has finite outputs.
        """
        c = self.config
        self.mean, self.std = channel_statistics(features.values)
        masks = split_episodes(features.episodes, c.validation, self.generator)
        fit, held_out = (mask.nonzero()[:, 0] for mask in masks)
        generator = torch.Generator().manual_seed(int(self.generator.integers(2**31)))
        settings = [Setting(lr, decay) for lr, decay in product(c.lr, c.weight_decay)]
        width = features.values.shape[-1]
        models = [build_classifier(width, outputs, c.depth, c.heads, generator).to(device()) for _ in settings]
        sweep = self.sweep = Sweep(models, settings)

        def update(rows: Tensor, share: float) -> None:
            rows = fit[rows]
            sweep.step(self._read(features, rows), lambda found, part: loss(found, rows, part), share)

        def validate() -> Tensor:
            found = self._all_outputs(features, held_out)
            scores = torch.tensor(score(found, held_out), dtype=torch.float64)
            return scores.nan_to_num(UNDEFINED).where(found.isfinite().flatten(1).all(1), -math.inf)

        self.work = train(sweep, minibatches(len(fit), c.batch, c.epochs, generator), update, validate, c.halving)
        scores = validate()
        best = int(scores.argmax())
        if scores[best] == -math.inf:
            raise ProbeError("no head of the attentive probe has finite outputs: lower lr, or check the features")
        setting, reached = sweep.settings[best], float(scores[best])
        validation = math.nan if reached == UNDEFINED else reached
        self.chosen = {"lr": setting.lr, "weight_decay": setting.weight_decay, "validation": validation}
        model = sweep.models()[best]
        assert isinstance(model, AttentiveClassifier)
        self.model = model

    @torch.no_grad()
    def outputs(self, features: Features) -> Tensor:
        """Outputs (B, O) of the chosen head, on the CPU."""
        chunks = torch.arange(len(features)).split(self.config.batch)
        return torch.cat([self.model(self._read(features, rows).to(device())).cpu() for rows in chunks])

    def all_outputs(self, features: Features) -> Tensor:
        """Outputs (heads, B, O) of all heads that were trained to the end, on the CPU."""
        return self._all_outputs(features, torch.arange(len(features)))

    def _all_outputs(self, features: Features, rows: Tensor) -> Tensor:
        chunks = [self.sweep.predict(self._read(features, chunk)) for chunk in rows.split(self.config.batch)]
        return torch.cat([chunk.cpu() for chunk in chunks if isinstance(chunk, Tensor)], dim=1)

    def _read(self, features: Features, rows: Tensor) -> Tensor:
        """Standardised tokens (b, K, D) of some rows; of features on disk no others are read."""
        return (features.values[rows] - self.mean) / self.std


def train(
    sweep: Sweep,
    minibatches: Iterable[tuple[Tensor, float]],
    update: Callable[[Tensor, float], object],
    validate: Callable[[], Tensor],
    halving: int,
) -> float:
    """Train through all minibatches; `halving` times the better half of the heads goes on alone.

    `minibatches` are row ids and the share of the training before them, `update(rows, share)` is one step of the
    sweep, `validate()` scores the heads that are left (heads), higher is better. `halving` is how often the heads are
    halved (3 -> 2), see `rungs`. Returns the work done, as a share of training every head to the end.
    """
    ahead, total = rungs(halving), len(sweep)
    done = steps = 0
    for rows, share in minibatches:
        while ahead and share >= ahead[0]:
            ahead.pop(0)
            if len(sweep) > 1:
                sweep.keep(better_half(validate().tolist()))
        update(rows, share)
        done, steps = done + len(sweep), steps + 1
    return done / max(1, total * steps)


def minibatches(rows: int, batch: int, epochs: int, generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
    """Shuffled row ids (≤ batch), each with the share of the training that lies behind it."""
    for epoch in range(epochs):
        order = torch.randperm(rows, generator=generator)
        for start in range(0, rows, batch):
            yield order[start : start + batch], (epoch + start / rows) / epochs


def device() -> str:
    """Where heads are trained: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
