"""Metrics as sums over clips, so that a score and its bootstrap over episodes are the same formula.

A classifier's sums are (…, 2C): correct clips of each class, then clips of each class. A regression's are
(…, 4·O): squared error, y, y² and 1 for each of O outputs. Sums may be added up in any grouping, then read.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jepa.bootstrap import resamples

Array = NDArray[np.float64]


def class_sums(predicted: NDArray, true: NDArray, classes: int) -> Array:
    """Predicted and true classes (B) -> sums per clip (B, 2C)."""
    members = np.eye(classes)[true]
    return np.concatenate((members * (predicted == true)[:, None], members), axis=1)


def value_sums(predicted: NDArray, true: NDArray) -> Array:
    """Predicted and true values (B, O) -> sums per clip (B, 4·O)."""
    true = true.astype(np.float64)
    return np.concatenate(((predicted - true) ** 2, true, true**2, np.ones_like(true)), axis=1)


def accuracy(sums: Array) -> Array:
    """Share of correct clips; sums (…, 2C) -> (…)."""
    right, total = np.split(sums, 2, axis=-1)
    return right.sum(-1) / total.sum(-1)


def balanced_accuracy(sums: Array) -> Array:
    """Mean over the classes that occur of the share of their clips that is correct; sums (…, 2C) -> (…)."""
    right, total = np.split(sums, 2, axis=-1)
    recall = np.divide(right, total, out=np.zeros_like(right), where=total > 0)
    return recall.sum(-1) / (total > 0).sum(-1)


def r2(sums: Array) -> Array:
    """Coefficient of determination, mean over outputs that vary (NaN: none does); sums (…, 4·O) -> (…)."""
    error, y, y_squared, count = np.split(sums, 4, axis=-1)
    spread = y_squared - y**2 / count
    varies = spread > 1e-9 * (1 + y_squared)
    share = np.divide(error, spread, out=np.zeros_like(error), where=varies)
    outputs = varies.sum(-1)
    return np.divide((varies - share).sum(-1), outputs, out=np.full(outputs.shape, np.nan), where=outputs > 0)


def rmse(sums: Array) -> Array:
    """Root mean square of the distance to the target, in the target's unit; sums (…, 4·O) -> (…)."""
    error, _, _, count = np.split(sums, 4, axis=-1)
    return np.sqrt(error.sum(-1) / count[..., 0])


METRICS = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "r2": r2, "rmse": rmse}
CLASS_METRICS, VALUE_METRICS = ("accuracy", "balanced_accuracy"), ("r2", "rmse")
AT_ONCE = 2**22  # numbers of a resampling: 64 MiB while they are drawn


def t_interval(values: Array) -> tuple[float, float, float]:
    """Mean and two-sided 95 % Student interval of a few independent values (n); NaN bounds where n is 1."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def by_episode(sums: Array, episodes: NDArray, all_episodes: NDArray) -> Array:
    """Sums per clip (B, S), clips from `episodes` (B) -> sums per episode (E, S), as in `all_episodes`."""
    out = np.zeros((len(all_episodes), sums.shape[1]))
    np.add.at(out, np.searchsorted(all_episodes, episodes), sums)
    return out


Sums = list[tuple[Array, NDArray]]
"""A row of a table: for each probe seed the sums per clip (B, S), and what group (B) each clip is of."""


def alone(row: Sums) -> Sums:
    """The same with a group for each clip, whatever episode it is of, so that clips are resampled by themselves."""
    ends = np.cumsum([len(sums) for sums, _ in row])
    return [(sums, np.arange(end - len(sums), end)) for (sums, _), end in zip(row, ends, strict=True)]


def bootstrap(row: Sums, metric: str, generator: np.random.Generator, draws: int = 2000) -> tuple[float, float]:
    """95 % interval of mean-over-seeds metric(row) under resampling of the groups.

    NaN where the metric is never defined, and of fewer than two groups, which say nothing of what others would score.
    """
    return _interval(_resampled([row], metric, generator, draws)[0])


def bootstrap_difference(
    ours: Sums, control: Sums, metric: str, generator: np.random.Generator, draws: int = 2000
) -> tuple[float, float]:
    """95 % interval of mean-over-seeds metric(ours) − metric(control) under resampling of the groups.

    Paired: one draw of groups (episodes, say) serves both rows and every seed, so what is common to one cancels.
    NaN as for `bootstrap`.
    """
    first, second = _resampled([ours, control], metric, generator, draws)
    return _interval(first - second)


def _resampled(rows: list[Sums], metric: str, generator: np.random.Generator, draws: int) -> list[Array]:
    """Mean-over-seeds metric (draws) of each row; a draw is how often each group is taken. NaN of a single group."""
    groups = np.unique(np.concatenate([own for row in rows for _, own in row]))
    count = len(groups)
    if count < 2:  # every draw would be the same, and the interval of no width
        return [np.full(draws, np.nan) for _ in rows]
    grouped = [[by_episode(sums, own, groups) for sums, own in row] for row in rows]
    found: list[list[Array]] = [[] for _ in rows]
    at_once = max(1, AT_ONCE // count)
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start)
        weights = resamples(count, size, generator)
        for row, into in zip(grouped, found, strict=True):
            with np.errstate(invalid="ignore", divide="ignore"):  # a seed of which no group is drawn: NaN
                into.append(np.mean([METRICS[metric](weights @ sums) for sums in row], axis=0))
    return [np.concatenate(parts) for parts in found]


def _interval(drawn: Array) -> tuple[float, float]:
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
