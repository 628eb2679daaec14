"""Linear probe: scikit-learn's logistic regression on standardised features."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from jepa.config import ConfigError
from jepa.probes.kinds.base import Compactor, Features, Probe, ProbeError, score_sums, split_episodes
from jepa.probes.metrics import balanced_accuracy


@dataclass(frozen=True)
class Config:
    """Inverse penalties to choose from, on a share `validation` of the episodes.

    scikit-learn's C is `c / D`: a standardised row has squared norm D, so one grid serves every width. Raises
    ConfigError for a value that cannot be.
    """

    c: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)
    validation: float = 0.2
    iterations: int = 1000

    def __post_init__(self) -> None:
        if not self.c or min(self.c) <= 0:
            raise ConfigError(f"linear.c={list(self.c)}: must be one or more inverse penalties above 0")
        if not 0 < self.validation < 1:
            raise ConfigError(f"linear.validation={self.validation:g}: must be between 0 and 1")
        if self.iterations < 1:
            raise ConfigError(f"linear.iterations={self.iterations}: must be at least 1")


def build(config: Config, generator: np.random.Generator) -> "Linear":
    """An unfitted probe."""
    return Linear(config, generator)


class Linear(Probe):
    """Chooses C by balanced accuracy on held-out episodes, then fits again on all of them.

    Where all clips beside the held-out ones are of one class, nothing can be chosen: the first C is taken, and its
    validation score is NaN. `fit` raises ProbeError where all clips are of one class.
    """

    def __init__(self, config: Config, generator: np.random.Generator) -> None:
        self.config, self.generator = config, generator

    def fit(self, features: Features, targets: Tensor) -> None:  # (B, D), (B)
        if len(targets.unique()) < 2:
            raise ProbeError(f"a linear probe tells classes apart: all {len(targets)} clips to fit are of one class")
        self.compact = Compactor()
        x, y = self.compact.fit_transform(features.values), targets.numpy()
        fit, validate = split_episodes(features.episodes, self.config.validation, self.generator)
        scores = {self.config.c[0]: float("nan")}
        for c in self.config.c if len(targets[fit].unique()) > 1 else ():
            model = self._model(c / features.values.shape[1]).fit(x[fit], y[fit])
            predicted = torch.from_numpy(model.predict(x[validate]))
            scores[c] = float(balanced_accuracy(score_sums(predicted, targets[validate]).sum(0)))
        best = max(scores, key=lambda c: scores[c])
        self.model = self._model(best / features.values.shape[1]).fit(x, y)
        self.chosen = {"c": best, "validation": scores[best]}

    def predict(self, features: Features) -> Tensor:
        return torch.from_numpy(self.model.predict(self.compact.transform(features.values)))

    def _model(self, c: float) -> LogisticRegression:
        return LogisticRegression(C=c, class_weight="balanced", max_iter=self.config.iterations, tol=1e-3)
