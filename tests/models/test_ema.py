"""The target moves by its formula, in fp32 also where the model computes in bf16, and nothing else does."""

import pytest
import torch
from torch import nn

from jepa.models.ema import EMA


@pytest.fixture
def pair():
    rng = torch.Generator().manual_seed(0)
    target, online = nn.Linear(3, 4), nn.Linear(3, 4)
    for p in (*target.parameters(), *online.parameters()):
        nn.init.normal_(p, generator=rng)
    return target.requires_grad_(False), online


def test_update_is_the_formula(pair):
    target, online = pair
    before = [p.detach().clone() for p in (*target.parameters(), *online.parameters())]
    EMA((target, online)).update(0.9)
    for p, old, other in zip(target.parameters(), before[:2], before[2:], strict=True):
        torch.testing.assert_close(p.detach(), 0.9 * old + 0.1 * other)
    assert all(torch.equal(p, old) for p, old in zip(online.parameters(), before[2:], strict=True))


def test_several_pairs_are_averaged_together(pair):
    first, second = pair, (nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    EMA(first, second).update(0.0)
    for target, online in (first, second):
        assert torch.equal(target.weight, online.weight) and torch.equal(target.bias, online.bias)


def test_bf16_loses_what_fp32_values_keep(pair):
    """0.075 % of a difference is less than half of bf16's last digit: without fp32 a target never moves."""
    momentum, steps = 0.99925, 200
    target, online = pair
    with torch.no_grad():
        for p, q in zip(target.parameters(), online.parameters(), strict=True):
            q.copy_(p * 1.5)
    before = target.weight.clone()
    exact = before + (online.weight.detach() - before) * (1 - momentum**steps)
    target, online = target.bfloat16(), online.bfloat16()
    naive = target.weight.clone()
    for _ in range(steps):
        naive.lerp_(online.weight.detach(), 1 - momentum)
    assert torch.equal(naive, target.weight)  # lost

    ema = EMA((target, online))
    values = [p.float() for p in ema.targets]
    ema.keep(values, ema.online, lambda: torch._foreach_copy_(ema.targets, values))
    for _ in range(steps):
        ema.update(momentum)
    assert ((values[0] - exact).abs() / exact.abs()).max() < 0.01  # bf16 rounded where it came from
    assert torch.equal(target.weight, values[0].bfloat16()) and not torch.equal(target.weight, naive)
