"""Learning rates are pinned to the reference's; groups are those of the paper."""

import pytest
import torch

from jepa.objectives import vjepa2
from jepa.optim import OptimConfig, build_adamw, learning_rate

PRETRAIN_G = OptimConfig(lr=5.25e-4, start_lr=1e-4, warmup=12000), 240000
COOLDOWN = OptimConfig(lr=5.25e-4, final_lr=1e-6, decay=15000), 15000
DROID = OptimConfig(lr=4.25e-4, start_lr=7.5e-5, warmup=4500, decay=4500), 94500


@pytest.mark.parametrize(
    ("recipe", "step", "value"),
    [
        (PRETRAIN_G, 1, 1.00035e-4),
        (PRETRAIN_G, 6000, 3.125e-4),
        (PRETRAIN_G, 12000, 5.25e-4),
        (PRETRAIN_G, 240000, 5.25e-4),
        (COOLDOWN, 1, 5.24965e-4),
        (COOLDOWN, 6000, 3.154e-4),
        (COOLDOWN, 12000, 1.058e-4),
        (DROID, 1, 7.5078e-5),
        (DROID, 4500, 4.25e-4),
        (DROID, 90000, 4.25e-4),
        (DROID, 92250, 2.125e-4),
        (DROID, 94500, 0.0),
    ],
)
def test_learning_rates_of_the_reference(recipe, step, value):
    config, total = recipe
    assert learning_rate(config, step, total) == pytest.approx(value, rel=1e-4, abs=1e-12)


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
