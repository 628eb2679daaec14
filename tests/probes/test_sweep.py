"""Heads trained side by side are those trained one by one; a bad head harms no other; halving keeps the best."""

import copy
import math
import runpy
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jepa.config import ConfigError
from jepa.models.pooler import AnticipationClassifier, build_classifier
from jepa.probes import sweep as sweep_module
from jepa.probes.attentive_heads import HeadsConfig, minibatches, train
from jepa.probes.kinds import attentive, attentive_regression
from jepa.probes.kinds import base as base_module
from jepa.probes.kinds.base import Features, ProbeError, channel_statistics, split_episodes
from jepa.probes.stacked import Stacked
from jepa.probes.sweep import Setting, Sweep

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GRID = [Setting(lr, decay) for lr in (3e-3, 3e-4) for decay in (0.01, 0.8)]


def classifiers(count=4, depth=2, width=32, classes=5, spread=0.2):
    """Heads whose every parameter matters: norms and biases too are drawn."""
    g = torch.Generator().manual_seed(depth)
    models = [build_classifier(width, classes, depth, 4, g) for _ in range(count)]
    with torch.no_grad():
        for p in (p for model in models for p in model.parameters()):
            p += spread * torch.randn(p.shape, generator=g)
    return models


def anticipations(count=3):
    g = torch.Generator().manual_seed(0)
    models = [AnticipationClassifier(32, (3, 4, 5), 2, 4) for _ in range(count)]
    with torch.no_grad():
        for p in (p for model in models for p in model.parameters()):
            p.copy_(0.2 * torch.randn(p.shape, generator=g))
    return models


def batches(steps, seed=0):
    g = torch.Generator().manual_seed(seed)
    for step in range(steps):
        yield torch.randn(6, 10, 32, generator=g), torch.randint(0, 5, (6,), generator=g), step / steps


def cross_entropy(labels):
    def loss(logits, rows):
        each = F.cross_entropy(logits.flatten(0, 1), labels[rows].repeat(len(logits)), reduction="none")
        return each.view(len(logits), -1).sum(1) / len(labels)

    return loss


def one_by_one(models, settings, steps, seed=0):
    """Losses (steps, heads) of separate heads, each with torch's own AdamW over all its parameters."""
    optimizers = [torch.optim.AdamW(model.parameters()) for model in models]
    losses = []
    for x, y, share in batches(steps, seed):
        losses.append([])
        for model, optimizer, setting in zip(models, optimizers, settings, strict=True):
            group = optimizer.param_groups[0]
            group["lr"], group["weight_decay"] = setting.lr_at(share), setting.weight_decay_at(share)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    return torch.tensor(losses)


@pytest.fixture(params=[2**23, 3000], ids=["all at once", "two rows, a head"])
def at_once(request, monkeypatch):
    monkeypatch.setitem(sweep_module.LARGEST, "cpu", request.param)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_stack_has_the_outputs_and_gradients_of_each(depth):
    models = classifiers(depth=depth)
    stacked = Stacked(models)
    values = stacked.values.clone().requires_grad_()
    x = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([model(x) for model in models])
    assert torch.allclose(stacked(x, values), expected, atol=1e-5)
    expected.square().sum().backward()
    stacked(x, values).square().sum().backward()
    for i, model in enumerate(models):
        wanted = torch.cat([p.grad.flatten() for p in model.parameters()])
        assert torch.allclose(values.grad[i], wanted, atol=1e-5 * float(wanted.abs().max()))


def test_the_stack_has_the_three_outputs_of_an_anticipation_probe(at_once):
    models = anticipations()
    x = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(1))
    found = Sweep(models, GRID[:3]).predict(x)
    assert [tuple(part.shape) for part in found] == [(3, 3, 3), (3, 3, 4), (3, 3, 5)]
    for i, model in enumerate(models):
        assert all(torch.allclose(a[i], b, atol=1e-5) for a, b in zip(found, model(x), strict=True))


def test_only_classifiers_of_one_shape_are_stacked():
    with pytest.raises(ValueError, match="one shape"):
        Stacked([*classifiers(1), *classifiers(1, classes=6)])
    with pytest.raises(ValueError, match="2 heads and 4 settings"):
        Sweep(classifiers(2), GRID)


@pytest.mark.parametrize("depth", [1, 4])
def test_training_equals_separate_heads(depth, at_once):
    models = classifiers(depth=depth, spread=0)
    sweep = Sweep(copy.deepcopy(models), GRID)
    found = torch.stack([sweep.step(x, cross_entropy(y), share) for x, y, share in batches(8)])
    assert (found - one_by_one(models, GRID, 8)).abs().max() < 1e-5
    x = next(batches(1, seed=1))[0]
    together = sweep.predict(x)
    for i, (mine, theirs) in enumerate(zip(sweep.models(), models, strict=True)):
        assert torch.allclose(mine(x), theirs(x), atol=1e-5) and torch.allclose(together[i], theirs(x), atol=1e-5)


def test_tokens_may_be_in_half_precision(at_once):
    sweep, again = (Sweep(classifiers(), GRID) for _ in range(2))
    x, y, share = next(batches(1))
    losses = [s.step(part, cross_entropy(y), share) for s, part in ((sweep, x.half()), (again, x.half().float()))]
    assert torch.equal(*losses) and losses[0].dtype == torch.float32
    assert torch.equal(sweep.predict(x.half()), again.predict(x.half().float()))


def test_a_pass_is_never_larger_than_allowed(monkeypatch):
    """Rows first, then as many heads as fit with them; a slice of tokens is moved once for all heads."""
    sweep, passes, moved = Sweep(classifiers(depth=2), GRID), [], []
    forward, move = Stacked.forward, Sweep._moved
    monkeypatch.setattr(Stacked, "forward", lambda s, x, v: passes.append((len(x), len(v))) or forward(s, x, v))
    monkeypatch.setattr(Sweep, "_moved", lambda s, x: moved.append(len(x)) or move(s, x))
    x, y, share = next(batches(1))  # 10 tokens of 32 in blocks of 4 · 32: 1280 numbers a row and head
    for limit, expected in ((8000, [(6, 1)] * 4), (16000, [(6, 2)] * 2), (3000, [(2, 1)] * 12), (1, [(1, 1)] * 24)):
        monkeypatch.setitem(sweep_module.LARGEST, "cpu", limit)
        passes.clear(), moved.clear()
        sweep.step(x, cross_entropy(y), share)
        assert passes == expected and sum(moved) == 6


def test_every_update_is_that_of_torch():
    """With the same gradients: every parameter, biases and norms too, is decayed and moved as AdamW would."""
    models = classifiers(2, depth=1)
    settings = [Setting(1e-2, 0.5, start_lr=2e-4, warmup=0.25), Setting(1e-3, 0.1, final_weight_decay=0.0)]
    sweep = Sweep(models, settings)
    rows = [torch.nn.Parameter(row.clone()) for row in sweep.stacked.values]
    optimizers = [torch.optim.AdamW([row]) for row in rows]
    g = torch.Generator().manual_seed(0)
    for step in range(5):
        gradients = torch.randn(sweep.mean.shape, generator=g)
        sweep._update(slice(0, 2), gradients, step / 5)
        sweep.steps += 1
        for row, optimizer, setting, gradient in zip(rows, optimizers, settings, gradients, strict=True):
            group = optimizer.param_groups[0]
            group["lr"], group["weight_decay"] = setting.lr_at(step / 5), setting.weight_decay_at(step / 5)
            row.grad = gradient
            optimizer.step()
    assert torch.allclose(sweep.stacked.values, torch.stack([row.detach() for row in rows]), atol=1e-6, rtol=0)


def test_schedules():
    plain = Setting(2e-3, 0.4)
    assert plain.lr_at(0) == 2e-3 and plain.lr_at(0.5) == pytest.approx(1e-3) and plain.lr_at(1) == pytest.approx(0)
    assert plain.weight_decay_at(0) == plain.weight_decay_at(0.9) == 0.4
    warm = Setting(1e-3, 1e-3, start_lr=2e-4, warmup=0.25, final_weight_decay=0.0)
    shares = (0, 0.125, 0.25, 0.625, 1)
    assert [warm.lr_at(s) for s in shares] == pytest.approx([2e-4, 6e-4, 1e-3, 5e-4, 0])
    assert [warm.weight_decay_at(s) for s in (0, 0.5, 1)] == pytest.approx([1e-3, 5e-4, 0])


def test_a_head_that_diverges_leaves_the_others_alone(at_once):
    models = classifiers(3, spread=0)
    settings = [GRID[0], Setting(1e6, 0.1), GRID[1]]
    sweep = Sweep(copy.deepcopy(models), settings)
    alone = Sweep([copy.deepcopy(models[0]), copy.deepcopy(models[2])], [GRID[0], GRID[1]])
    for x, y, share in batches(30):
        found, expected = (s.step(x, cross_entropy(y), share) for s in (sweep, alone))
        assert torch.allclose(found[[0, 2]], expected, atol=1e-6)
    with torch.no_grad():
        sweep.stacked.values[1] = torch.nan  # for certain, whatever 1e6 has led to
    for x, y, share in batches(3, seed=1):
        found, expected = (s.step(x, cross_entropy(y), share) for s in (sweep, alone))
        assert not found[1].isfinite() and torch.allclose(found[[0, 2]], expected, atol=1e-6)


def test_dropped_heads_take_their_moments_with_them():
    models = classifiers(spread=0)
    sweep, alone = Sweep(copy.deepcopy(models), GRID), Sweep(models[3:] + models[1:2], [GRID[3], GRID[1]])
    for x, y, share in batches(3):
        sweep.step(x, cross_entropy(y), share)
        alone.step(x, cross_entropy(y), share)
    sweep.keep([3, 1])
    assert (sweep.ids, sweep.settings, len(sweep)) == ((3, 1), (GRID[3], GRID[1]), 2)
    for x, y, share in batches(3, seed=1):
        assert torch.allclose(sweep.step(x, cross_entropy(y), share), alone.step(x, cross_entropy(y), share), atol=1e-6)
    sweep.keep([1])
    assert sweep.ids == (1,)


def test_a_sweep_goes_on_where_it_stopped():
    sweep, again = (Sweep(classifiers(), GRID) for _ in range(2))
    for x, y, share in batches(2):
        sweep.step(x, cross_entropy(y), share)
    sweep.keep([1, 2, 3])
    again.load_state_dict({name: value.clone() for name, value in sweep.state_dict().items()})
    for x, y, share in batches(3, seed=1):
        assert torch.equal(sweep.step(x, cross_entropy(y), share), again.step(x, cross_entropy(y), share))
    assert again.ids == (1, 2, 3) and again.settings == sweep.settings
    with pytest.raises(ValueError, match="other heads"):
        again.load_state_dict(Sweep(classifiers(), GRID).state_dict())
    with pytest.raises(ValueError, match="other heads"):
        again.load_state_dict(Sweep(classifiers(classes=6), GRID).state_dict())


def test_losses_and_predictions_hold_no_graph():
    sweep = Sweep(classifiers(2), GRID[:2])
    x, y, share = next(batches(1))
    assert not sweep.step(x, cross_entropy(y), share).requires_grad and not sweep.predict(x).requires_grad


def halve(halving, heads=20, steps=80):
    """Scores are the heads' own ids; returns (steps before each halving with the heads left), work, the last ids."""
    sweep = Sweep(classifiers(heads, depth=1, width=8), [Setting(1e-3, 0.1)] * heads)
    seen = []
    updates = []

    def validate():
        seen.append((len(updates), len(sweep)))
        return torch.tensor([float(i) for i in sweep.ids])

    work = train(sweep, minibatches(steps, 1, 1, torch.Generator()), lambda *a: updates.append(a), validate, halving)
    return seen, work, sweep.ids


def test_halving_drops_the_worse_half_at_half_quarter_and_eighth():
    assert halve(0) == ([], 1.0, tuple(range(20)))
    assert halve(1) == ([(40, 20)], 0.75, tuple(range(10, 20)))
    seen, work, left = halve(3)
    assert seen == [(10, 20), (20, 10), (40, 5)] and left == (17, 18, 19)
    assert work == pytest.approx((10 * 20 + 10 * 10 + 20 * 5 + 40 * 3) / 1600) and work < 0.4
    assert halve(5, heads=3)[2] == (2,)  # there is always one


def tokens(clips=60, seed=0):
    """Three classes, shown by every token; 3 clips an episode."""
    g = torch.Generator().manual_seed(seed)
    labels, values = torch.randint(0, 3, (clips,), generator=g), torch.randn(clips, 5, 16, generator=g)
    values[..., :3] += 2 * F.one_hot(labels, 3)[:, None]
    return Features(values, torch.arange(clips) // 3), labels


SMALL = {"depth": 2, "heads": 2, "epochs": 4, "batch": 16, "lr": (1e-2, 1e-3), "weight_decay": (0.1, 0.4)}


def test_attentive_equals_a_loop_over_its_heads(at_once):
    """The plain way: one module and one AdamW a head, over the same minibatches; class weights; the best is kept."""
    features, labels = tokens()
    probe = attentive.build(attentive.Config(**SMALL), np.random.default_rng(0))
    probe.fit(features, labels)
    rng = np.random.default_rng(0)
    fit, held_out = split_episodes(features.episodes, 0.2, rng)
    g = torch.Generator().manual_seed(int(rng.integers(2**31)))
    flat = features.values.flatten(0, 1)
    x = (features.values - flat.mean(0)) / flat.std(0)
    weight = len(labels) / (3 * torch.bincount(labels))
    grid = list(product(SMALL["lr"], SMALL["weight_decay"]))
    models = [build_classifier(16, 3, 2, 2, g) for _ in grid]
    optimizers = [
        torch.optim.AdamW(m.parameters(), lr, weight_decay=d) for m, (lr, d) in zip(models, grid, strict=True)
    ]
    for rows, share in minibatches(int(fit.sum()), 16, 4, g):
        for model, optimizer, (lr, _) in zip(models, optimizers, grid, strict=True):
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * share))
            optimizer.zero_grad()
            F.cross_entropy(model(x[fit][rows]), labels[fit][rows], weight).backward()
            optimizer.step()
    with torch.no_grad():
        logits = torch.stack([model(x) for model in models])
    assert torch.allclose(probe.heads.all_outputs(features), logits, atol=1e-4)
    recall = [[float((p[held_out & (labels == c)] == c).float().mean()) for c in range(3)] for p in logits.argmax(2)]
    scores = [sum(r) / 3 for r in recall]
    best = scores.index(max(scores))
    assert probe.chosen == {
        "lr": grid[best][0],
        "weight_decay": grid[best][1],
        "validation": pytest.approx(scores[best]),
    }
    assert torch.equal(probe.predict(features), logits[best].argmax(1))


def test_regression_in_slices_is_regression(monkeypatch):
    features, labels = tokens()
    targets = torch.stack((1000 + 50.0 * labels, 1e-3 * labels), dim=1)
    found = []
    for limit in (2**23, 1000):
        monkeypatch.setitem(sweep_module.LARGEST, "cpu", limit)
        probe = attentive_regression.build(attentive_regression.Config(**SMALL), np.random.default_rng(0))
        probe.fit(features, targets)
        found.append(probe.heads.all_outputs(features))
    assert torch.allclose(*found, atol=1e-4)


def test_predict_all_has_one_prediction_a_head_that_is_left():
    features, labels = tokens()
    for halving, left in ((0, 4), (2, 1)):
        probe = attentive.build(attentive.Config(**SMALL, halving=halving), np.random.default_rng(0))
        probe.fit(features, labels)
        found = probe.predict_all(features)
        assert len(found) == left and all(p.shape == labels.shape for p in found)
        assert any(torch.equal(p, probe.predict(features)) for p in found)
        assert probe.heads.work == (1 if halving == 0 else pytest.approx(0.5))
        assert (probe.predict(features) == labels).float().mean() > 0.8


def test_regression_finds_a_value_in_its_unit_and_chooses_by_r2():
    features, labels = tokens()
    targets = torch.stack((1000 + 50.0 * labels, 1e-3 * labels), dim=1)
    config = attentive_regression.Config(**SMALL | {"lr": (0.0, 1e-2), "epochs": 12})
    probe = attentive_regression.build(config, np.random.default_rng(0))
    probe.fit(features, targets)
    assert probe.chosen["lr"] == 1e-2 and probe.chosen["validation"] > 0.7
    assert probe.score(features, targets)["r2"] > 0.8
    assert [p.shape for p in probe.predict_all(features)] == [targets.shape] * 4


def test_half_precision_rows_are_read_as_they_are_needed(monkeypatch):
    """Features on disk: never more than a minibatch, or a chunk of the statistics, at a time."""
    features, labels = tokens()
    monkeypatch.setattr(base_module, "CHUNK", 7 * 80)
    read = []

    class Disk(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            with torch._C.DisableTorchFunctionSubclass():
                result = function(*args, **(kwargs or {}))
            found = result if isinstance(result, tuple) else (result,)
            read.extend(part.numel() for part in found if isinstance(part, torch.Tensor))
            plain = [part.as_subclass(torch.Tensor) if isinstance(part, torch.Tensor) else part for part in found]
            return tuple(plain) if isinstance(result, tuple) else plain[0]

    predictions = []
    for values in (features.values.half().as_subclass(Disk), features.values.half().float()):
        probe = attentive.build(attentive.Config(**SMALL), np.random.default_rng(0))
        probe.fit(Features(values, features.episodes), labels)
        predictions.append(probe.heads.outputs(Features(values, features.episodes)))
    assert torch.allclose(*predictions, atol=1e-5)
    assert 0 < max(read) <= 16 * 80


def test_statistics_do_not_depend_on_chunks(monkeypatch):
    values = 1000 + torch.randn(50, 4, 6, generator=torch.Generator().manual_seed(0))
    values[..., 2] = 3
    rows = values.flatten(0, 1).double()
    for chunk in (1, 100, 2**24):
        monkeypatch.setattr(base_module, "CHUNK", chunk)
        mean, std = channel_statistics(values)
        assert torch.allclose(mean.double(), rows.mean(0), rtol=1e-6)
        expected = rows.std(0)
        expected[2] = 1
        assert torch.allclose(std.double(), expected, rtol=1e-4) and mean.dtype == std.dtype == torch.float32


def test_bad_settings_and_hopeless_heads_are_one_line():
    with pytest.raises(ConfigError, match="not -1"):
        HeadsConfig(halving=-1)
    features, labels = tokens()
    features.values[0] = torch.nan
    with pytest.raises(ProbeError, match="no head of the attentive probe has finite"):
        attentive.build(attentive.Config(**SMALL), np.random.default_rng(0)).fit(features, labels)


def test_heads_that_are_not_finite_are_never_chosen():
    features, labels = tokens()
    config = attentive.Config(**SMALL | {"lr": (math.inf, 1e-2), "weight_decay": (0.1,)})
    probe = attentive.build(config, np.random.default_rng(0))
    probe.fit(features, labels)
    assert probe.chosen["lr"] == 1e-2


@pytest.mark.parametrize("recompute", [False, True])
def test_the_benchmarks_reference_is_the_same_probe(monkeypatch, recompute):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from reference.probe import Classifier

    mine = classifiers(1, depth=3)[0]
    theirs = Classifier(32, 5, 3, 4, recompute)
    theirs.load_state_dict(mine.state_dict())
    x = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(mine(x), theirs(x), atol=1e-5)
    for model in (mine, theirs):
        model(x).square().sum().backward()
    for (name, a), b in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5 * float(b.grad.abs().max()) + 1e-5), name
    for name in [name for name in sys.modules if name.split(".")[0] == "reference"]:
        monkeypatch.delitem(sys.modules, name)


def test_the_benchmark_runs(tmp_path, monkeypatch):
    """In this process: to import it all again would take longer than the rest of the file."""
    sizes = "--width 36 --tokens 8 --batch 2 --attention-heads 4 --pixels 32 --clips 8 --depths 1 2"
    counts = "--rounds 1 --heads 3 --seeds 1 --epochs 1 --train 450"
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", ["probe_sweep.py", *sizes.split(), *counts.split(), "--out", f"{tmp_path}/out.md"])
    runpy.run_path(str(BENCHMARKS / "probe_sweep.py"), run_name="__main__")
    for name in [name for name in sys.modules if name.split(".")[0] == "reference"]:
        monkeypatch.delitem(sys.modules, name)
    text = (tmp_path / "out.md").read_text()
    for found in ("3 heads of depth 1: D = 36", "3 heads of depth 2", "32 tokens of 36", "| 3 halvings | 3"):
        assert found in text
    exact = [float(line.split("double precision ")[1]) for line in text.splitlines() if "double precision" in line]
    assert len(exact) == 2 and max(exact) < 1e-12
