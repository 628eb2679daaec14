"""Heads shared out over ranks: what a rank saves is true also of heads that it does not have."""

import math

import torch
import torch.nn.functional as F
from accelerate import Accelerator

from jepa.models.pooler import build_classifier
from jepa.probes.published import benchmark_heads
from jepa.probes.published.benchmark_heads import RankHeads
from jepa.probes.published.benchmark_training import head_generator
from jepa.probes.sweep import Setting


def test_a_rank_whose_heads_are_all_dropped_still_counts_the_steps(monkeypatch):
    """It may be the one that writes the count down, from which the others' AdamW goes on."""
    monkeypatch.setattr(benchmark_heads, "processes", lambda: 2)
    monkeypatch.setattr(benchmark_heads, "rank", lambda: 0)
    settings = [Setting(1e-3, 0.1), Setting(1e-4, 0.1)]
    heads = RankHeads(lambda i: build_classifier(8, 3, 1, 2, head_generator(0, i)), settings, Accelerator(cpu=True))
    tokens, labels = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])

    def loss(outputs, rows):
        return torch.stack([F.cross_entropy(o, labels[rows], reduction="sum") for o in outputs])

    assert heads.own == [0] and heads.left == [0, 1] and math.isfinite(heads.step(tokens, loss, 0.0))
    heads.keep([1])
    assert heads.own == [] and heads.predict(tokens) is None and math.isnan(heads.step(tokens, loss, 0.5))
    assert heads.steps == 2 and heads.pieces() == {}
