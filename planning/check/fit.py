"""The regression behind `jepa plan check`: least squares with a bootstrap over whole episodes."""

from typing import NamedTuple

import numpy as np

from jepa.bootstrap import resamples

RESAMPLES = 1000


class Fit(NamedTuple):
    """Least squares on the data (first) and on R resamples: rows are axes of the lowest energy, columns logged axes.

    slopes, effects (slopes times the spread of the logged axis), partial (squared correlation): (R, m, m); fits: R²,
    (R, m).
    """

    slopes: np.ndarray
    effects: np.ndarray
    partial: np.ndarray
    fits: np.ndarray


def weights(episodes: int, rng: np.random.Generator) -> np.ndarray:
    """How often each episode counts (R, E): first the data as they are, then every resample."""
    return np.concatenate([np.ones((1, episodes)), resamples(episodes, RESAMPLES, rng)])


def regress(y: np.ndarray, x: np.ndarray, of: np.ndarray, counts: np.ndarray) -> Fit:
    """Least squares of y (n, m) on x (n, m) for each weighting of episodes (R, E); `of` (E, n) says which are whose."""
    x_unit, y_unit = x.std(0), np.where(y.std(0) > 0, y.std(0), 1.0)
    m, one = x.shape[1], np.ones((len(x), 1))
    z = np.concatenate([one, (x - x.mean(0)) / x_unit, (y - y.mean(0)) / y_unit], axis=1)
    grams = np.stack([z[own].T @ z[own] for own in of])  # (E, 1+2m, 1+2m)
    gram = np.tensordot(counts, grams, 1)
    xx, xy = gram[:, : 1 + m, : 1 + m] + 1e-9 * np.eye(1 + m), gram[:, : 1 + m, 1 + m :]
    inverse = np.linalg.inv(xx)
    coefficients = inverse @ xy  # (R, 1+m, m)
    yy = np.diagonal(gram[:, 1 + m :, 1 + m :], axis1=1, axis2=2)
    total = yy - gram[:, 0, 1 + m :] ** 2 / gram[:, 0, :1]
    left = (yy - (coefficients * xy).sum(1)).clip(1e-12)
    effects = coefficients[:, 1:].transpose(0, 2, 1)
    f = effects**2 / (np.diagonal(inverse, axis1=1, axis2=2)[:, None, 1:] * left[..., None])
    fits = 1 - left / total.clip(1e-9)
    effects = effects * y_unit[:, None]
    return Fit(effects / x_unit, effects, f / (1 + f), np.where(total > 1e-9, fits, 0.0))


def toward(falls: np.ndarray, logged: np.ndarray, of: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Share (R) of the larger half of moves in whose direction the energy falls."""
    large = np.abs(logged) >= max(np.median(np.abs(logged)), 1e-12)
    right = (of @ (large & (falls * logged > 0)).astype(float), of @ large.astype(float))
    return (counts @ right[0]) / (counts @ right[1]).clip(1e-9)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Of the resamples, which follow the data themselves in `values` (R)."""
    low, high = np.quantile(values[1:], (0.5 - level / 2, 0.5 + level / 2))
    return float(low), float(high)
