"""Scores of a classifier from what it says of every class: top-k, recall, precision, and their 95 % intervals."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from jepa.bootstrap import resamples
from jepa.probes.kinds.base import ProbeError
from jepa.probes.metrics import Array, accuracy, balanced_accuracy

HITS = {
    "top1": (1, accuracy),
    "top5": (5, accuracy),
    "balanced_accuracy": (1, balanced_accuracy),
    "recall_at_5": (5, balanced_accuracy),
}
"""Name -> how many guesses a clip has, and how clips are averaged: all alike, or class by class and then the mean."""

_AT_ONCE = 2**24  # numbers of a bootstrap's table that are held at a time


def ranks(scores: NDArray, labels: NDArray) -> NDArray[np.int64]:
    """The place of the true class among all, 0 the best; scores (B, C), labels (B) -> (B).

    Of classes with equal scores the first comes first.

    Raises:
        ProbeError: no clip, a score that is not finite, or a label that is none of the C classes.
    """
    _check(scores, labels)
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(1)


def class_mean_recall(scores: NDArray, labels: NDArray, k: int, classes: Sequence[int] | None = None) -> dict[str, Any]:
    """Mean over `classes` (None: all C) of the share of a class's clips that have it among their first `k`.

    The list is fixed beforehand, so that rows, heads and checkpoints are compared over the same classes. Those
    without a clip have no recall: `without_clips` counts them. The reference's mean is over the classes seen so far
    of a running evaluation, which is the same over all clips, and not before.
    """
    hit, listed = ranks(scores, labels) < k, np.arange(scores.shape[1]) if classes is None else np.asarray(classes)
    recalls = [hit[labels == c].mean() for c in listed if (labels == c).any()]
    return {
        "value": float(np.mean(recalls)) if recalls else float("nan"),
        "classes": len(listed),
        "without_clips": len(listed) - len(recalls),
    }


def average_precision(scores: NDArray, labels: NDArray) -> Array:
    """Area under each class's precision-recall curve, one class against all others: (C), NaN where no clip has it."""
    from sklearn.metrics import average_precision_score

    _check(scores, labels)
    found = np.full(scores.shape[1], np.nan)
    for c in np.unique(labels):
        found[c] = average_precision_score(labels == c, scores[:, c])
    return found


def confusion(scores: NDArray, labels: NDArray) -> NDArray[np.int64]:
    """Clips by true class (rows) and the best guess (columns): (C, C)."""
    from sklearn.metrics import confusion_matrix

    _check(scores, labels)
    return confusion_matrix(labels, scores.argmax(1), labels=np.arange(scores.shape[1]))


def per_class(scores: NDArray, labels: NDArray, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each class that a clip has: its clips, recall at 1 and 5, precision, average precision, best rival."""
    rank, guess, areas = ranks(scores, labels), scores.argmax(1), average_precision(scores, labels)
    rows = []
    for c in np.unique(labels):
        mine = labels == c
        rivals = np.bincount(guess[mine & (guess != c)], minlength=scores.shape[1])
        rows.append(
            {
                "class": names[c],
                "clips": int(mine.sum()),
                "recall": float((rank[mine] < 1).mean()),
                "recall_at_5": float((rank[mine] < 5).mean()),
                "precision": float(mine[guess == c].mean()) if (guess == c).any() else None,
                "average_precision": float(areas[c]),
                "taken_for": names[int(rivals.argmax())] if rivals.any() else None,
            }
        )
    return rows


def intervals(
    scores: NDArray, labels: NDArray, groups: NDArray, generator: np.random.Generator, draws: int = 2000
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap interval of each of `HITS`, resampling whole groups (B) of clips: videos, episodes, participants.

    `np.arange(B)` resamples clips. One group says nothing of others: the interval is then (0, 1).
    """
    rank, classes = ranks(scores, labels), scores.shape[1]
    ids, group = np.unique(groups, return_inverse=True)
    if len(ids) == 1:
        return dict.fromkeys(HITS, (0.0, 1.0))
    shape = (len(ids), classes)
    sums = {name: _group_sums(rank < k, labels, group, shape) for name, (k, _) in HITS.items()}
    found: dict[str, list[Array]] = {name: [] for name in HITS}
    for count in _chunks(draws, max(len(ids), 2 * classes)):
        drawn = resamples(len(ids), count, generator)
        for name, (_, metric) in HITS.items():
            found[name].append(metric(drawn @ sums[name]))
    bounds = {name: np.quantile(np.concatenate(parts), (0.025, 0.975)) for name, parts in found.items()}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}


def summary(
    scores: NDArray, labels: NDArray, groups: NDArray, generator: np.random.Generator, draws: int = 2000
) -> dict[str, Any]:
    """Every score of scores (B, C) and labels (B), JSON-able: its value, and 95 % intervals by clip and by group (B).

    `balanced_accuracy` is the mean class accuracy, `recall_at_5` the class-mean recall among the first five, both
    over all C classes but those `without_clips`. `map`, mean average precision over the classes with clips, has no
    interval.
    """
    rank, classes = ranks(scores, labels), scores.shape[1]
    by_clip = intervals(scores, labels, np.arange(len(labels)), generator, draws)
    by_group = intervals(scores, labels, groups, generator, draws)
    everything = np.zeros(len(labels), np.int64)
    out: dict[str, Any] = {}
    for name, (k, metric) in HITS.items():
        value = float(metric(_group_sums(rank < k, labels, everything, (1, classes)).toarray()[0]))
        out[name] = {"value": value, "clip95": by_clip[name], "group95": by_group[name]}
    return out | {
        "map": {"value": float(np.nanmean(average_precision(scores, labels)))},
        "clips": len(labels),
        "groups": len(np.unique(groups)),
        "classes": classes,
        "without_clips": classes - len(np.unique(labels)),
    }


def _group_sums(hit: NDArray, labels: NDArray, group: NDArray, shape: tuple[int, int]) -> csr_array:
    """Sums per group (G, 2C) as in jepa.probes.metrics; sparse, for a group has few of thousands of classes."""
    groups, classes = shape
    values = np.concatenate((hit.astype(np.float64), np.ones(len(labels))))
    columns = np.concatenate((labels, labels + classes))
    return csr_array((values, (np.tile(group, 2), columns)), shape=(groups, 2 * classes))


def _chunks(draws: int, width: int) -> Iterator[int]:
    size = max(1, _AT_ONCE // width)
    for start in range(0, draws, size):
        yield min(size, draws - start)


def _check(scores: NDArray, labels: NDArray) -> None:
    if not len(labels):
        raise ProbeError("there is no clip to score")
    if not np.isfinite(scores).all():
        raise ProbeError("a classifier's scores are not finite: its training has diverged; lower the learning rate")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        bad = labels.min() if labels.min() < 0 else labels.max()
        raise ProbeError(f"a clip has class {bad}, of {scores.shape[1]} classes that were asked for")
