"""Metrics from sums equal scikit-learn's; intervals cover what they should."""

import numpy as np
import pytest
from sklearn import metrics as reference

from jepa.probes import metrics


def test_class_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    true = rng.choice([0, 1, 3], 60)  # class 2 does not occur
    predicted = np.where(rng.random(60) < 0.5, true, rng.choice([0, 1, 3], 60))
    sums = metrics.class_sums(predicted, true, 4).sum(0)
    assert metrics.accuracy(sums) == pytest.approx(reference.accuracy_score(true, predicted))
    assert metrics.balanced_accuracy(sums) == pytest.approx(reference.balanced_accuracy_score(true, predicted))


def test_value_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(50, 3)) * (1, 10, 0.01) + 5
    predicted = true + rng.normal(size=(50, 3)) * (0.5, 1, 0.1)
    sums = metrics.value_sums(predicted, true).sum(0)
    assert metrics.r2(sums) == pytest.approx(reference.r2_score(true, predicted))
    distance = np.linalg.norm(predicted - true, axis=1)
    assert metrics.rmse(sums) == pytest.approx(np.sqrt((distance**2).mean()))


def test_r2_leaves_out_an_output_that_does_not_vary():
    true = np.stack((np.arange(5.0), np.full(5, 0.3)), axis=1)
    assert metrics.r2(metrics.value_sums(true + np.array((0, 0.1)), true).sum(0)) == pytest.approx(1)
    assert np.isnan(metrics.r2(metrics.value_sums(true[:, 1:], true[:, 1:]).sum(0)))


def test_sums_by_episode_add_up_to_the_score():
    rng = np.random.default_rng(0)
    sums, episodes = rng.random((40, 6)), rng.choice([2, 5, 9], 40)
    grouped = metrics.by_episode(sums, episodes, np.array([2, 5, 9]))
    assert np.allclose(grouped[1], sums[episodes == 5].sum(0))
    assert np.allclose(grouped.sum(0), sums.sum(0))


def test_t_interval_of_three_values():
    mean, low, high = metrics.t_interval(np.array([1.0, 2.0, 3.0]))
    assert (mean, low, high) == pytest.approx((2, 2 - 4.302653 / np.sqrt(3), 2 + 4.302653 / np.sqrt(3)))
    assert np.isnan(metrics.t_interval(np.array([1.0]))[1])


def right_and_wrong(rate: float, rng: np.random.Generator, episodes: np.ndarray):
    true = rng.integers(0, 2, len(episodes))
    predicted = np.where(rng.random(len(episodes)) < rate, true, 1 - true)
    return metrics.class_sums(predicted, true, 2), episodes


def test_bootstrap_separates_what_differs_and_only_that():
    rng, episodes = np.random.default_rng(0), np.repeat(np.arange(40), 6)
    good = [right_and_wrong(0.9, rng, episodes) for _ in range(3)]
    bad = [right_and_wrong(0.6, rng, episodes) for _ in range(3)]
    low, high = metrics.bootstrap_difference(good, bad, "accuracy", rng)
    assert 0.2 < low < 0.3 < high < 0.4
    assert metrics.bootstrap_difference(good, good, "accuracy", rng) == (0, 0)  # paired: the same clips cancel
    low, high = metrics.bootstrap_difference(
        good, [right_and_wrong(0.9, rng, episodes) for _ in range(3)], "accuracy", rng
    )
    assert low < 0 < high


def test_bootstrap_resamples_episodes_not_clips():
    """Clips of an episode that are right or wrong together: a bootstrap over clips would be far too sure."""
    rng, episodes = np.random.default_rng(0), np.repeat(np.arange(10), 100)
    true, half = np.zeros(1000, int), (episodes % 2)
    ours, control = metrics.class_sums(half, true, 2), metrics.class_sums(true, true, 2)
    low, high = metrics.bootstrap_difference([(ours, episodes)], [(control, episodes)], "accuracy", rng)
    assert high - low > 0.5


def test_one_row_has_an_interval_by_episode_and_a_narrower_one_by_clip():
    rng, episodes = np.random.default_rng(0), np.repeat(np.arange(20), 50)
    true, right = np.zeros(1000, int), rng.random(20) < 0.7
    row = [(metrics.class_sums(np.where(right[episodes], 0, 1), true, 2), episodes)] * 2
    low, high = metrics.bootstrap(row, "accuracy", np.random.default_rng(1))
    share = right.mean()
    half = 1.96 * np.sqrt(share * (1 - share) / 20)
    assert (low, high) == pytest.approx((share - half, share + half), abs=0.03)
    by_clip = metrics.bootstrap(metrics.alone(row), "accuracy", np.random.default_rng(1))
    half = 1.96 * np.sqrt(share * (1 - share) / 2000)  # as if the clips of both seeds were all their own
    assert by_clip == pytest.approx((share - half, share + half), abs=0.005)


def test_resampling_in_parts_is_resampling_at_once(monkeypatch):
    rng, episodes = np.random.default_rng(0), np.repeat(np.arange(40), 6)
    rows = [right_and_wrong(0.8, rng, episodes) for _ in range(3)]
    whole = metrics.bootstrap(rows, "balanced_accuracy", np.random.default_rng(1), draws=100)
    monkeypatch.setattr(metrics, "AT_ONCE", 280)
    assert metrics.bootstrap(rows, "balanced_accuracy", np.random.default_rng(1), draws=100) == pytest.approx(whole)


def test_a_score_that_is_never_defined_has_no_interval():
    row = [(metrics.value_sums(np.zeros((1, 2)), np.ones((1, 2))), np.zeros(1, int))]
    assert np.isnan(metrics.bootstrap(row, "r2", np.random.default_rng(0))).all()


def test_a_single_group_has_no_interval():
    """Every draw of one episode is that episode: an interval of no width would claim to be sure."""
    true = np.zeros(8, int)
    right, wrong = (metrics.class_sums(guess, true, 2) for guess in (true, true + 1))
    one, two = np.full(8, 3), np.repeat((3, 4), 4)
    for ours, control, episodes, defined in ((right, wrong, one, False), (right, wrong, two, True)):
        rng = np.random.default_rng(0)
        found = metrics.bootstrap_difference([(ours, episodes)] * 3, [(control, episodes)] * 3, "accuracy", rng)
        assert np.isfinite(found).all() == np.isfinite(metrics.bootstrap([(ours, episodes)], "accuracy", rng)).all()
        assert np.isfinite(found).all() == defined
    assert np.isnan(metrics.bootstrap(metrics.alone([(right[:1], one[:1])]), "accuracy", rng)).all()
