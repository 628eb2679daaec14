"""The target encoder moves by its formula, and nothing else does."""

import torch
from torch import nn

from jepa.models.ema import update_ema


def test_update_is_the_formula():
    rng = torch.Generator().manual_seed(0)
    target, online = nn.Linear(3, 4), nn.Linear(3, 4)
    for p in (*target.parameters(), *online.parameters()):
        nn.init.normal_(p, generator=rng)
    before = [p.detach().clone() for p in (*target.parameters(), *online.parameters())]
    update_ema(target, online, 0.9)
    for p, old, other in zip(target.parameters(), before[:2], before[2:], strict=True):
        torch.testing.assert_close(p.detach(), 0.9 * old + 0.1 * other)
    assert all(torch.equal(p, old) for p, old in zip(online.parameters(), before[2:], strict=True))
