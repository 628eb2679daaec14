"""Schedules are pinned to the reference's values; groups are those of the paper."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from jepa.config import ConfigError, load_config
from jepa.objectives import vjepa2
from jepa.optim import OptimConfig, build_adamw, learning_rate, set_schedule, weight_decay
from jepa.pretrain import PretrainConfig

WARM = OptimConfig(lr=5.25e-4, start_lr=1e-4, warmup=12000), 240000
PRETRAIN = OptimConfig("cosine", lr=5.25e-4, start_lr=1e-4, final_lr=5.25e-4, warmup=12000, stretch=1.25), 240000
COOLDOWN = OptimConfig("linear", lr=5.25e-4, final_lr=1e-6, stretch=1.25), 12000
DROID = OptimConfig(lr=4.25e-4, start_lr=7.5e-5, warmup=4500, decay=4500), 94500
FALLING = OptimConfig("cosine", lr=5.25e-4, start_lr=1e-4, final_lr=1e-6, warmup=100, stretch=1.25), 1000


@pytest.mark.parametrize(
    ("recipe", "step", "value"),
    [
        *((recipe, step, value) for recipe in (WARM, PRETRAIN) for step, value in [(1, 1.00035e-4), (6000, 3.125e-4)]),
        *((recipe, step, 5.25e-4) for recipe in (WARM, PRETRAIN) for step in (12000, 12001, 240000)),
        (PRETRAIN, 3000, 2.0625e-4),  # where the shipped ViT-L and ViT-H recipes stop
        (COOLDOWN, 1, 5.24965e-4),
        (COOLDOWN, 6000, 3.154e-4),
        (COOLDOWN, 12000, 1.058e-4),
        (DROID, 1, 7.5078e-5),
        (DROID, 4500, 4.25e-4),
        (DROID, 90000, 4.25e-4),
        (DROID, 92250, 2.125e-4),
        (DROID, 94500, 0.0),
        (FALLING, 100, 5.25e-4),
        (FALLING, 675, 2.63e-4),  # half of the 1150 steps between the end of the warm-up and 1.25 · 1000
        (FALLING, 1000, 1e-6 + 5.24e-4 * (1 + math.cos(math.pi * 900 / 1150)) / 2),
    ],
)
def test_learning_rates_of_the_reference(recipe, step, value):
    config, total = recipe
    assert learning_rate(config, step, total) == pytest.approx(value, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_without_stretch_a_schedule_ends_where_it_should_and_stays_there(schedule):
    config = OptimConfig(schedule, lr=1e-3, final_lr=1e-6, warmup=10)
    assert learning_rate(config, 100, 100) == pytest.approx(1e-6)
    rates = [learning_rate(config, step, 100) for step in range(10, 101)]
    assert rates == sorted(rates, reverse=True)
    short = dataclasses.replace(config, stretch=0.5)
    assert learning_rate(short, 50, 100) == learning_rate(short, 99, 100) == pytest.approx(1e-6)


def test_weight_decay_is_constant_or_goes_along_a_cosine():
    assert {weight_decay(OptimConfig(), step, 100) for step in range(1, 101)} == {0.04}
    config = OptimConfig(weight_decay=0.04, final_weight_decay=0.4)
    steps = {25: 0.04 + 0.36 * (1 - math.cos(math.pi / 4)) / 2, 50: 0.22, 100: 0.4}
    assert {s: weight_decay(config, s, 100) for s in steps} == pytest.approx(steps)
    assert weight_decay(dataclasses.replace(config, stretch=2.0), 100, 100) == pytest.approx(0.22)


def test_recipes_have_the_reference_s_rates_without_its_mistakes():
    for size in "lhg":
        loop = load_config(PretrainConfig, "pretrain", f"vit{size}_256_16f").loop
        assert (loop.steps, loop.optim.warmup) == (240000, 12000)
        assert learning_rate(loop.optim, 6000, loop.steps) == pytest.approx(3.125e-4)
        assert learning_rate(loop.optim, loop.steps, loop.steps) == 5.25e-4
    for name in ("vitl_256", "vith_256", "vitg_256", "vitg_384"):
        loop = load_config(PretrainConfig, "pretrain", f"{name}_64f_cooldown").loop
        assert loop.steps == 12000
        assert learning_rate(loop.optim, 1, loop.steps) == pytest.approx(5.25e-4, rel=1e-3)
        assert learning_rate(loop.optim, loop.steps, loop.steps) == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "step"}, "'step' is not one of wsd, cosine, linear"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"stretch": 0.0}, "stretch"),
    ],
)
def test_mistakes_are_one_line(values, message):
    with pytest.raises(ConfigError, match=message):
        OptimConfig(**values)


def test_a_schedule_sets_both_groups_and_only_the_decayed_one_s_decay():
    layer = nn.Linear(2, 2)
    config = OptimConfig("linear", lr=1.0, weight_decay=0.0, final_weight_decay=0.4, betas=(0.8, 0.95), eps=1e-6)
    optimizer = build_adamw(layer.named_parameters(), config)
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.8, 0.95), 1e-6)
    set_schedule(optimizer, config, 50, 100)
    decayed, free = optimizer.param_groups
    assert decayed["params"] == [layer.weight] and free["params"] == [layer.bias]
    assert decayed["lr"] == free["lr"] == 0.5
    assert (decayed["weight_decay"], free["weight_decay"]) == (pytest.approx(0.2), 0.0)


def test_only_biases_and_norms_are_free_of_weight_decay(tiny):
    from jepa.masks import multiblock
    from jepa.models.encoder import build_encoder
    from jepa.models.predictor import PredictorConfig

    masks = multiblock.build(multiblock.Config(), 0)
    objective = vjepa2.build(
        vjepa2.Config(), build_encoder(tiny, 0), PredictorConfig(24, 1, 2), masks, torch.Generator()
    )
    named = {n: p for n, p in objective.named_parameters() if p.requires_grad}
    groups = build_adamw(named.items(), OptimConfig(weight_decay=0.04)).param_groups
    free = {n for n, p in named.items() if any(p is q for q in groups[1]["params"])}
    assert (groups[0]["weight_decay"], groups[1]["weight_decay"]) == (0.04, 0.0)
    assert free == {n for n in named if n.endswith("bias") or "norm" in n}
    assert "predictor.mask_tokens.0" not in free
    assert sum(len(g["params"]) for g in groups) == len(named)
