"""Every probe of the folder finds what was planted, finds nothing in shuffled labels, and never sees the test set."""

import importlib

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from jepa.config import build, plugin_names
from jepa.probes.kinds import attentive, knn, linear, regression
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
