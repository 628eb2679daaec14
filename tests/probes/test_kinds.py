"""Every probe of the folder finds what was planted, finds nothing in shuffled labels, and never sees the test set."""

import importlib

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from jepa.config import ConfigError, build, plugin_names
from jepa.probes.kinds import attentive, attentive_regression, dense, knn, linear, regression
from jepa.probes.kinds.base import Compactor, Features, ProbeError, split_episodes
from jepa.probes.tasks import CLASSIFY, REGRESS

ELSEWHERE = ("dense", "anticipation")
"""Kinds of verbs of their own: dense probes read maps, anticipation has three labels a clip. Their tests have both."""

KINDS = [name for name in plugin_names("jepa.probes.kinds") if name not in ELSEWHERE]
HEADS = {"depth": 1, "heads": 2, "epochs": 20, "batch": 32, "lr": (3e-3, 1e-3), "weight_decay": (0.1,)}
SMALL = {"attentive": HEADS, "attentive_regression": HEADS | {"epochs": 40, "lr": (1e-2, 3e-3)}}
VALUES = ("regression", "attentive_regression")
"""Kinds that predict values; the others predict classes."""


def make(kind: str, seed: int = 0):
    config = importlib.import_module(f"jepa.probes.kinds.{kind}").Config(**SMALL.get(kind, {}))
    return build(config, np.random.default_rng(seed))


def planted(kind: str, clips: int = 240, seed: int = 0):
    """Features that carry a target, in whatever shape the kind reads; 6 clips an episode, each with its own offset."""
    g = torch.Generator().manual_seed(seed)
    episodes = torch.arange(clips) // 6
    offset = 0.3 * torch.randn(clips // 6, 16, generator=g)[episodes]
    values = torch.randn(clips, 16, generator=g) + offset + 50
    if kind in VALUES:
        targets = torch.randn(clips, 2, generator=g)
        values[:, :2] += 3 * targets
    else:
        targets = torch.randint(0, 3, (clips,), generator=g)
        values[:, :3] += 5 * torch.nn.functional.one_hot(targets, 3)
    if kind == "attentive_regression":  # a value of either sign: no query could tell which token shows it
        values = values[:, None] + torch.randn(clips, 3, 16, generator=g)
        values[..., :2] += 3 * targets[:, None]
    if kind == "attentive":
        values = torch.cat((values[:, None], torch.randn(clips, 4, 16, generator=g) + 50), dim=1)  # one telling token
    return Features(values, episodes), targets


def halves(features, targets):
    first = features.episodes < features.episodes.max() // 2
    return features.rows(first), targets[first], features.rows(~first), targets[~first]


def test_the_tasks_use_every_kind():
    assert {kind for kind, _ in (*CLASSIFY, *REGRESS)} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_signal_is_found_and_shuffled_labels_are_not(kind):
    seen, targets, unseen, truth = halves(*planted(kind))
    probe = make(kind)
    probe.fit(seen, targets)
    scores = probe.score(unseen, truth)
    assert scores["r2" if kind in VALUES else "balanced_accuracy"] > 0.75
    shuffled = make(kind)
    shuffled.fit(seen, targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(1))])
    scores = shuffled.score(unseen, truth)
    assert scores["r2"] < 0.1 if kind in VALUES else 0.15 < scores["balanced_accuracy"] < 0.52


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_probe_and_inputs_are_left_alone(kind):
    seen, targets, unseen, _ = halves(*planted(kind))
    before = seen.values.clone()
    state = torch.get_rng_state()
    predictions = []
    for _ in range(2):
        probe = make(kind)
        probe.fit(seen, targets)
        predictions.append(probe.predict(unseen))
    assert torch.equal(*predictions)
    assert torch.equal(before, seen.values)
    assert torch.equal(state, torch.get_rng_state())  # no global random number was drawn


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_scored_alone(kind):
    seen, targets, unseen, _ = halves(*planted(kind))
    probe = make(kind)
    probe.fit(seen, targets)
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(0))
    together, permuted = probe.predict(unseen), probe.predict(unseen.rows(order))
    assert torch.allclose(together[order].double(), permuted.double(), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_chosen_does_not_depend_on_what_is_scored(kind):
    seen, targets, unseen, truth = halves(*planted(kind))
    chosen = []
    for labels in (truth, truth.flip(0)):
        probe = make(kind)
        probe.fit(seen, targets)
        probe.score(unseen, labels)
        chosen.append(probe.chosen)
    assert chosen[0] == chosen[1]


def test_split_by_episode_never_leaks():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        episodes = torch.from_numpy(rng.integers(0, rng.integers(2, 30), 80) * 7)
        if len(episodes.unique()) < 2:
            continue
        fit, validate = split_episodes(episodes, float(rng.uniform(0, 1)), rng)
        assert torch.equal(fit, ~validate) and fit.any() and validate.any()
        assert not set(episodes[fit].tolist()) & set(episodes[validate].tolist())
    with pytest.raises(ProbeError, match="at least 2 episodes"):
        split_episodes(torch.zeros(5), 0.2, np.random.default_rng(0))


@pytest.mark.parametrize("width", [10, 300])
def test_compact_coordinates_give_the_answers_of_the_full_problem(width):
    g = torch.Generator().manual_seed(0)
    train, test = torch.randn(60, width, generator=g) * 3 + 1, torch.randn(20, width, generator=g)
    y = train[:, :2].numpy()
    compact = Compactor()
    small = compact.fit_transform(train)
    assert small.shape[1] <= min(60, width)
    mean, std = train.mean(0), train.std(0)
    full, unseen = ((train - mean) / std).numpy(), ((test - mean) / std).numpy()
    expected = Ridge(5.0).fit(full, y).predict(unseen)
    assert np.allclose(Ridge(5.0).fit(small, y).predict(compact.transform(test)), expected, atol=1e-3)
    labels = (y[:, 0] > y[:, 0].mean()).astype(int)
    a, b = (LogisticRegression(C=0.01, tol=1e-6).fit(x, labels) for x in (full, small))
    assert np.allclose(a.predict_proba(unseen), b.predict_proba(compact.transform(test)), atol=1e-3)


def test_knn_equals_a_slow_reference():
    seen, targets, unseen, _ = halves(*planted("knn", clips=120))
    probe = knn.build(knn.Config(k=5, temperature=0.1), np.random.default_rng(0))
    probe.fit(seen, targets)
    mean, std = seen.values.mean(0), seen.values.std(0)
    expected = []
    for row in (unseen.values - mean) / std:
        cosines = []
        for other, label in zip((seen.values - mean) / std, targets, strict=True):
            cosines.append((float(row @ other / (row.norm() * other.norm())), int(label)))
        votes = [0.0] * 3
        for cosine, label in sorted(cosines, reverse=True)[:5]:
            votes[label] += np.exp(cosine / 0.1)
        expected.append(int(np.argmax(votes)))
    assert probe.predict(unseen).tolist() == expected


def test_linear_and_regression_choose_the_penalty_that_generalises():
    """Few rows, many useless channels: the weakest penalty overfits."""
    g = torch.Generator().manual_seed(0)
    values, episodes = torch.randn(60, 200, generator=g), torch.arange(60) // 3
    noisy = values[:, :1] + 2 * torch.randn(60, 1, generator=g)
    probe = regression.build(regression.Config(alpha=(1e-6, 10.0)), np.random.default_rng(0))
    probe.fit(Features(values, episodes), noisy)
    assert probe.chosen["alpha"] == 10.0
    classify = linear.build(linear.Config(c=(1e-6,)), np.random.default_rng(0))
    classify.fit(Features(values, episodes), (noisy[:, 0] > 0).long())
    assert classify.chosen["c"] == 1e-6 and 0 <= classify.chosen["validation"] <= 1


def test_attentive_picks_its_head_on_episodes_held_out_of_fit():
    """A head that cannot learn (lr 0) beside one that can: the latter wins, whatever their order."""
    seen, targets = planted("attentive")
    for lr in ((0.0, 3e-3), (3e-3, 0.0)):
        config = attentive.Config(depth=1, heads=2, epochs=6, batch=32, lr=lr, weight_decay=(0.1,))
        probe = attentive.build(config, np.random.default_rng(0))
        probe.fit(seen, targets)
        assert probe.chosen["lr"] == 3e-3


def test_where_one_class_is_left_to_fit_the_linear_probe_takes_its_first_setting():
    """Two episodes of a class each: without the held-out one there is nothing to tell apart."""
    values = torch.cat((torch.randn(6, 4) - 5, torch.randn(6, 4) + 5))
    targets = torch.arange(12) // 6
    features = Features(values, targets)
    probe = linear.build(linear.Config(c=(1.0, 0.1)), np.random.default_rng(0))
    probe.fit(features, targets)
    assert probe.chosen["c"] == 1.0 and np.isnan(probe.chosen["validation"])
    assert torch.equal(probe.predict(features), targets)
    with pytest.raises(ProbeError, match="all 12 clips to fit are of one class"):
        probe.fit(features, torch.ones(12, dtype=torch.int64))


@pytest.mark.parametrize("kind", VALUES)
def test_where_no_score_is_defined_the_first_setting_is_taken(kind):
    """One clip is held out, of which R² says nothing."""
    features, targets = planted(kind, clips=12)
    episodes = torch.tensor([0] * 11 + [1])  # two episodes: the one that is held out must be that of one clip
    seed = next(s for s in range(9) if split_episodes(episodes, 0.2, np.random.default_rng(s))[1].sum() == 1)
    probe = make(kind, seed)
    probe.fit(Features(features.values, episodes), targets)
    assert np.isnan(probe.chosen["validation"])
    first = {"alpha": 1e-4} if kind == "regression" else {"lr": 1e-2}
    assert first.items() <= probe.chosen.items()


@pytest.mark.parametrize("halving", [0, 1])
def test_a_head_that_diverges_is_passed_over_where_no_score_is_defined(halving):
    features, targets = planted("attentive_regression", clips=12)
    episodes = torch.tensor([0] * 11 + [1])
    seed = next(s for s in range(9) if split_episodes(episodes, 0.2, np.random.default_rng(s))[1].sum() == 1)
    given = {"depth": 1, "heads": 2, "epochs": 2, "batch": 4, "lr": (1e38, 1e-3), "weight_decay": (0.1,)}
    config = attentive_regression.Config(**given, halving=halving)
    probe = attentive_regression.build(config, np.random.default_rng(seed))
    probe.fit(Features(features.values, episodes), targets)
    assert probe.chosen["lr"] == 1e-3 and np.isnan(probe.chosen["validation"])


def test_a_dense_head_that_diverges_is_never_kept():
    g = torch.Generator().manual_seed(0)
    features = Features(torch.randn(8, 4, 3, generator=g), torch.arange(8))
    depths = 1 + torch.rand(8, 4, 4, generator=g)
    probe = dense.build(dense.Config(epochs=2, lr=(torch.inf, 1e-3), weight_decay=(0.1,)), np.random.default_rng(0))
    probe.fit(features, depths)
    assert probe.chosen["lr"] == 1e-3 and np.isfinite(probe.chosen["validation"])


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
@pytest.mark.parametrize("kind", [linear, regression, attentive, attentive_regression, dense])
def test_a_share_of_validation_that_cannot_be_is_one_line(kind, share):
    with pytest.raises(ConfigError, match=r"\.validation=.*: must be between 0 and 1$"):
        kind.Config(validation=share)


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (knn, {"k": 0}, "knn.k=0"),
        (knn, {"temperature": 0}, "knn.temperature=0"),
        (linear, {"c": ()}, r"linear.c=\[\]"),
        (linear, {"iterations": 0}, "linear.iterations=0"),
        (regression, {"alpha": (1, 0)}, r"regression.alpha=\[1, 0\]"),
        (attentive, {"epochs": 0}, "attentive.epochs=0"),
        (attentive_regression, {"lr": ()}, "attentive_regression.lr"),
        (dense, {"batch": 0}, "probe.batch=0"),
    ],
)
def test_settings_that_cannot_be_are_one_line(kind, given, words):
    with pytest.raises(ConfigError, match=words):
        kind.Config(**given)
