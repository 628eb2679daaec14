"""What tests of objectives share: one of tiny size, a clip of noise, a few steps of AdamW."""

import importlib

import pytest
import torch

from jepa.data.clip import Clip
from jepa.masks import multiblock
from jepa.models.encoder import build_encoder
from jepa.models.predictor import PredictorConfig
from jepa.optim import OptimConfig, build_adamw


@pytest.fixture
def make(tiny):
    """make(name, seed=1, **config) -> the objective, on an encoder of 2 levels and 4×4 tokens of 16 px frames."""

    def build(name, seed=1, **config):
        module = importlib.import_module(f"jepa.objectives.{name}")
        parts = build_encoder(tiny, seed), PredictorConfig(24, 2, 2), multiblock.build(multiblock.Config(), 0)
        return module.build(module.Config(**config), *parts, torch.Generator().manual_seed(seed))

    return build


@pytest.fixture
def clip_of():
    """clip_of(rows=4, frames=4, step=40_000) -> a clip of noise, late enough for every part of a loss to count."""

    def build(rows=4, frames=4, step=40_000):
        rng = torch.Generator().manual_seed(0)
        return Clip(
            frames=torch.randint(0, 256, (rows, frames, 3, 16, 16), generator=rng, dtype=torch.uint8),
            sample_id=torch.arange(rows),
            epoch=torch.zeros(rows, dtype=torch.int64),
            step=step,
            valid=torch.ones(rows, frames, dtype=torch.bool),
        )

    return build


@pytest.fixture
def optimise():
    """optimise(objective, clip, steps, lr=3e-3) -> the losses of so many steps on one clip."""

    def run(objective, clip, steps, lr=3e-3):
        named = [(n, p) for n, p in objective.named_parameters() if p.requires_grad]
        optimizer = build_adamw(named, OptimConfig(lr=lr))
        losses = []
        for step in range(steps):
            loss, _ = objective(clip)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            objective.after_step(step + 1, steps)
            losses.append(loss.item())
        return losses

    return run
