"""Scores equal scikit-learn's and a slow loop; intervals cover what they should."""

import numpy as np
import pytest
from sklearn import metrics as reference

from jepa.probes.kinds.base import ProbeError
from jepa.probes.published import scores


def made(clips: int = 80, classes: int = 8, seed: int = 0):
    """Scores that know a little, labels of all classes but number 2, and four clips a video."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([c for c in range(classes) if c != 2], clips)
    values = rng.normal(size=(clips, classes)) + 1.2 * np.eye(classes)[labels]
    return values, labels, np.arange(clips) // 4


def slow_recall(values, labels, k, classes):
    recalls = []
    for c in classes:
        rows = [i for i, label in enumerate(labels) if label == c]
        if rows:
            recalls.append(sum(c in sorted(range(len(values[i])), key=lambda j: -values[i][j])[:k] for i in rows))
            recalls[-1] /= len(rows)
    return sum(recalls) / len(recalls)


def test_scores_equal_scikit_learn_and_a_slow_loop():
    values, labels, groups = made()
    found = scores.summary(values, labels, groups, np.random.default_rng(0), draws=50)
    everyone = np.arange(8)
    assert found["top1"]["value"] == pytest.approx(reference.top_k_accuracy_score(labels, values, k=1, labels=everyone))
    assert found["top5"]["value"] == pytest.approx(reference.top_k_accuracy_score(labels, values, k=5, labels=everyone))
    recalls = reference.recall_score(labels, values.argmax(1), average=None, labels=list(set(labels)))
    assert found["balanced_accuracy"]["value"] == pytest.approx(recalls.mean())
    assert found["recall_at_5"]["value"] == pytest.approx(slow_recall(values, labels, 5, everyone))
    areas = [reference.average_precision_score(labels == c, values[:, c]) for c in set(labels)]
    assert found["map"]["value"] == pytest.approx(np.mean(areas))
    assert (found["clips"], found["groups"], found["classes"], found["without_clips"]) == (80, 20, 8, 1)


def test_class_mean_recall_is_over_a_fixed_list():
    values, labels, _ = made()
    everyone = scores.class_mean_recall(values, labels, 5)
    assert everyone == {
        "value": pytest.approx(slow_recall(values, labels, 5, range(8))),
        "classes": 8,
        "without_clips": 1,
    }
    some = scores.class_mean_recall(values, labels, 5, [2, 3, 7])
    assert some == {"value": pytest.approx(slow_recall(values, labels, 5, [3, 7])), "classes": 3, "without_clips": 1}


def test_equal_scores_are_no_hit_for_everyone():
    constant = np.zeros((4, 4))
    assert scores.ranks(constant, np.arange(4)).tolist() == [0, 1, 2, 3]


def test_confusion_and_the_table_by_class():
    values = np.array([[9.0, 1, 0], [0, 9, 1], [9, 1, 0], [1, 0, 9]])
    labels = np.array([0, 0, 0, 2])
    assert scores.confusion(values, labels).tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 1]]
    first, last = scores.per_class(values, labels, ("pour", "cut", "stir"))
    assert first["class"] == "pour" and first["clips"] == 3 and first["taken_for"] == "cut"
    assert first["recall"] == pytest.approx(2 / 3) and first["precision"] == 1 and first["recall_at_5"] == 1
    assert last["class"] == "stir" and last["recall"] == 1 and last["taken_for"] is None


def slow_intervals(values, labels, groups, generator, draws):
    """One resampled data set after the other, scored by scikit-learn."""
    ids = np.unique(groups)
    found = []
    for _ in range(draws):
        drawn = generator.choice(ids, len(ids))
        rows = np.concatenate([np.flatnonzero(groups == g) for g in drawn])
        true, said = labels[rows], values[rows]
        found.append(
            (
                reference.accuracy_score(true, said.argmax(1)),
                slow_recall(said, true, 1, set(true)),
                slow_recall(said, true, 5, set(true)),
            )
        )
    return np.quantile(found, (0.025, 0.975), axis=0).T


@pytest.mark.parametrize("by", ["clip", "group"])
def test_intervals_equal_a_slow_bootstrap(by):
    values, labels, groups = made()
    groups = groups if by == "group" else np.arange(80)
    fast = scores.intervals(values, labels, groups, np.random.default_rng(0), draws=4000)
    slow = slow_intervals(values, labels, groups, np.random.default_rng(1), draws=400)
    for name, expected in zip(("top1", "balanced_accuracy", "recall_at_5"), slow, strict=True):
        assert fast[name] == pytest.approx(expected, abs=0.025), name


def test_intervals_by_group_are_wider_where_a_group_is_right_or_wrong_together():
    labels, groups = np.zeros(400, int), np.arange(400) // 40
    values = np.eye(2)[(groups % 2)]
    found = scores.summary(values, labels, groups, np.random.default_rng(0))
    low, high = found["top1"]["clip95"]
    assert high - low < 0.12
    low, high = found["top1"]["group95"]
    assert high - low > 0.5
    alone = scores.intervals(values[:40], labels[:40], groups[:40], np.random.default_rng(0))
    assert set(alone.values()) == {(0.0, 1.0)}  # one group says nothing of others


def test_the_same_seed_gives_the_same_interval_and_chunks_cover_all_draws(monkeypatch):
    values, labels, groups = made()
    whole = [scores.intervals(values, labels, groups, np.random.default_rng(3), draws=300) for _ in range(2)]
    assert whole[0] == whole[1]
    monkeypatch.setattr(scores, "_AT_ONCE", 80 * 7)
    chunked = scores.intervals(values, labels, groups, np.random.default_rng(3), draws=300)
    assert chunked == whole[0]  # drawn row after row
    assert sum(scores._chunks(300, 80)) == 300


def test_what_cannot_be_scored_is_said():
    values, labels, _ = made()
    with pytest.raises(ProbeError, match="no clip"):
        scores.ranks(values[:0], labels[:0])
    with pytest.raises(ProbeError, match="class 9, of 8"):
        scores.ranks(values, np.full(80, 9))
    values[3, 3] = np.nan
    with pytest.raises(ProbeError, match="not finite"):
        scores.summary(values, labels, labels, np.random.default_rng(0))
