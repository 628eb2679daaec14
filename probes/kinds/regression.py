"""Regression probe: scikit-learn's ridge on standardised features, all outputs at once."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from jepa.config import ConfigError
from jepa.probes.kinds.base import Compactor, Features, Probe, score_sums, split_episodes
from jepa.probes.metrics import r2


@dataclass(frozen=True)
class Config:
    """Penalties to choose from on a share `validation` of the episodes; scikit-learn's is `alpha · D`.

    Raises ConfigError for a value that cannot be.
    """

    alpha: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    validation: float = 0.2

    def __post_init__(self) -> None:
        if not self.alpha or min(self.alpha) <= 0:
            raise ConfigError(f"regression.alpha={list(self.alpha)}: must be one or more penalties above 0")
        if not 0 < self.validation < 1:
            raise ConfigError(f"regression.validation={self.validation:g}: must be between 0 and 1")


def build(config: Config, generator: np.random.Generator) -> "Regression":
    """An unfitted probe."""
    return Regression(config, generator)


class Regression(Probe):
    """Chooses the penalty by R² on held-out episodes, then fits again on all of them.

    Where R² is undefined, as of one clip, the first penalty is taken, and its validation score is NaN.
    """

    def __init__(self, config: Config, generator: np.random.Generator) -> None:
        self.config, self.generator = config, generator

    def fit(self, features: Features, targets: Tensor) -> None:  # (B, D), (B, O)
        self.compact = Compactor()
        x, y = self.compact.fit_transform(features.values), targets.double().numpy()
        fit, validate = split_episodes(features.episodes, self.config.validation, self.generator)
        scores = {}
        for alpha in self.config.alpha:
            model = Ridge(alpha * features.values.shape[1]).fit(x[fit], y[fit])
            predicted = _values(model, x[validate])
            scores[alpha] = float(r2(score_sums(predicted, targets[validate]).sum(0)))
        best = max(scores, key=lambda alpha: scores[alpha])
        self.model = Ridge(best * features.values.shape[1]).fit(x, y)
        self.chosen = {"alpha": best, "validation": scores[best]}

    def predict(self, features: Features) -> Tensor:
        return _values(self.model, self.compact.transform(features.values))


def _values(model: Ridge, x: np.ndarray) -> Tensor:
    """Predictions (B, O); scikit-learn drops the axis where O is 1."""
    return torch.from_numpy(model.predict(x)).view(len(x), -1)
