"""The contract of a probe, and what this folder shares: scores, the validation split, standardising."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jepa.probes import metrics

CHUNK = 2**24  # numbers that are read at a time: 64 MiB


class ProbeError(ValueError):
    """Clips, labels or settings that a probe cannot work with; the message is one line."""


@dataclass(frozen=True)
class Features:
    """What a probe reads: `values` (B, D) or tokens (B, K, D), and the episode (B) of each row.

    Values (B, D) are a float32 tensor. Tokens may be `jepa.probes.store.Rows`, in half precision and on disk, of which
    there are only `len`, `shape`, `split` and rows by their numbers: read a few at a time, and make them float32.
    """

    values: Tensor
    episodes: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, which: Tensor) -> "Features":
        """The rows chosen by a mask or by indices (B)."""
        return Features(self.values[which], self.episodes[which])


class Probe(ABC):
    """Learns targets from frozen features; what it must choose, it chooses on episodes held out of `fit`'s.

    `chosen` says what `fit` chose. Nothing of the rows that are scored can reach it.
    """

    chosen: dict[str, float]

    @abstractmethod
    def fit(self, features: Features, targets: Tensor) -> None:
        """Learn from features and targets: classes (B) int64, or values (B, O) float."""

    @abstractmethod
    def predict(self, features: Features) -> Tensor:
        """Features -> classes (B) int64, or values (B, O)."""

    def score(self, features: Features, targets: Tensor) -> dict[str, float]:
        """Metrics of the predictions: accuracy and balanced accuracy of classes; R² and RMSE of values."""
        sums = score_sums(self.predict(features), targets).sum(0)
        if targets.ndim == 1:
            return {
                "accuracy": float(metrics.accuracy(sums)),
                "balanced_accuracy": float(metrics.balanced_accuracy(sums)),
            }
        return {"r2": float(metrics.r2(sums)), "rmse": float(metrics.rmse(sums))}


def score_sums(predicted: Tensor, targets: Tensor, classes: int = 0) -> metrics.Array:
    """Sums per clip (`jepa.probes.metrics`): predicted classes (B), at least `classes`, or values (B, O)."""
    if targets.ndim == 1:
        classes = max(classes, int(torch.cat((predicted, targets)).max()) + 1)
        return metrics.class_sums(predicted.numpy(), targets.numpy(), classes)
    return metrics.value_sums(predicted.numpy(), targets.numpy())


def split_episodes(episodes: Tensor, share: float, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Masks (B) of the rows to fit and of those to validate; an episode is wholly in one of them.

    Raises:
        ProbeError: fewer than two episodes.
    """
    ids = np.unique(episodes.numpy())
    if len(ids) < 2:
        raise ProbeError(f"a probe needs at least 2 episodes to fit and validate on, got {len(ids)}")
    held_out = generator.permutation(ids)[: min(max(1, round(share * len(ids))), len(ids) - 1)]
    validate = torch.isin(episodes, torch.from_numpy(held_out))
    return ~validate, validate


def channel_statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D), float32, of each channel over all leading dimensions; 1 where nothing varies.

    Read a few rows at a time, so that values may lie on disk.
    """
    count, mean, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
    for chunk in values.split(max(1, CHUNK // max(1, values[0].numel()))):
        rows = chunk.flatten(0, -2).float()
        variance, middle = (x.double() for x in torch.var_mean(rows, dim=0, correction=0))
        step, total = middle - mean, count + len(rows)
        squares = squares + len(rows) * (variance + step**2 * (count / total))
        mean, count = mean + step * (len(rows) / total), total
    mean, std = mean.float(), (squares / max(1, count - 1)).sqrt().float()
    return mean, torch.where(std > 1e-6 * (1 + mean.abs()), std, torch.ones_like(std))


class Compactor:
    """Standardises rows (B, D), then turns them into at most B coordinates that keep every inner product.

    Ridge and L2-penalised logistic regression read inner products only, so they find the same answer on the
    coordinates as on the D channels, in far less time where D is thousands.
    """

    def fit_transform(self, values: Tensor) -> np.ndarray:
        """Rows (B, D) to fit on -> their coordinates (B, r), r <= min(B, D)."""
        self.mean, self.std = channel_statistics(values)
        x = self._standardised(values)
        self.rows: Tensor | None = None
        if x.shape[1] <= x.shape[0]:
            return x.double().numpy()
        power, turn = torch.linalg.eigh((x @ x.T).double())  # x = turn · √power · (orthonormal directions)
        kept = power > 1e-7 * power[-1]  # float32 products carry nothing below that
        self.rows, self.turn = x, turn[:, kept] / power[kept].sqrt()
        return (turn[:, kept] * power[kept].sqrt()).numpy()

    def transform(self, values: Tensor) -> np.ndarray:
        """Any rows (B, D) -> their coordinates (B, r)."""
        x = self._standardised(values)
        return (x.double() if self.rows is None else (x @ self.rows.T).double() @ self.turn).numpy()

    def _standardised(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.std
