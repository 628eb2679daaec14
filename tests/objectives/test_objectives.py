"""Contract of every objective, and V-JEPA 2's loss against a slow reading of its definition."""

import dataclasses
import importlib

import pytest
import torch
import torch.nn.functional as F

from jepa.config import plugin_names
from jepa.data.clip import Clip
from jepa.data.transforms import normalize
from jepa.masks import multiblock
from jepa.models.encoder import build_encoder
from jepa.models.predictor import PredictorConfig
from jepa.optim import OptimConfig, build_adamw

NAMES = plugin_names("jepa.objectives")


def make(name, tiny):
    module = importlib.import_module(f"jepa.objectives.{name}")
    masks = multiblock.build(multiblock.Config(), 0)
    generator = torch.Generator().manual_seed(1)
    return module.build(module.Config(), build_encoder(tiny, 0), PredictorConfig(24, 2, 2), masks, generator)


def clip_of(rows=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (rows, 4, 3, 16, 16), generator=rng, dtype=torch.uint8)
    return Clip(
        frames=frames,
        sample_id=torch.arange(rows),
        epoch=torch.zeros(rows, dtype=torch.int64),
        step=0,
        valid=torch.ones(rows, 4, dtype=torch.bool),
    )


def optimise(objective, clip, steps, lr=3e-3):
    optimizer = build_adamw([(n, p) for n, p in objective.named_parameters() if p.requires_grad], OptimConfig(lr=lr))
    losses = []
    for step in range(steps):
        loss, _ = objective(clip)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(step + 1, steps)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_finite_and_every_parameter_gets_a_gradient(name, tiny):
    objective = make(name, tiny)
    clip = clip_of()
    optimise(objective, clip, 1)  # the zero-initialised mask tokens have moved
    loss, metrics = objective(clip)
    loss.backward()
    assert loss.isfinite() and all(v.isfinite() and v.ndim == 0 for v in metrics.values())
    for parameter_name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_loss_falls(name, tiny):
    losses = optimise(make(name, tiny), clip_of(), 20)
    assert sum(losses[-3:]) / 3 < 0.97 * losses[0]  # noise has little to predict


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_batch_does_not_matter(name, tiny):
    objective, clip = make(name, tiny), clip_of()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = dataclasses.replace(clip, frames=clip.frames[order], sample_id=clip.sample_id[order])
    torch.testing.assert_close(objective(clip)[0], objective(shuffled)[0])


def test_vjepa2_loss_equals_a_slow_reading(tiny):
    """Token by token: encode the context, predict each target, mean |prediction - normed target feature|."""
    objective, clip = make("vjepa2", tiny), clip_of(2)
    optimise(objective, clip, 2)
    with torch.no_grad():
        frames = normalize(clip.frames)
        features = objective.target_encoder(frames)
        features = F.layer_norm(features, features.shape[-1:])
        per_config = []
        for index, mask in enumerate(objective.masks.sample((2, 4, 4), clip.sample_id, clip.epoch, clip.step)):
            errors = []
            for b in range(2):
                context = objective.encoder(frames[b : b + 1], mask.context[b : b + 1])
                predicted = objective.predictor(
                    context, mask.context[b : b + 1], mask.target[b : b + 1], (2, 4, 4), index
                )[0]
                errors += [(predicted[i] - features[b, n]).abs() for i, n in enumerate(mask.target[b].tolist())]
            per_config.append(torch.stack(errors).mean())
        torch.testing.assert_close(objective(clip)[0], torch.stack(per_config).mean())


def test_predictor_answers_in_the_order_it_was_asked(tiny):
    predictor = make("vjepa2", tiny).predictor
    context, ids, targets = torch.randn(1, 3, 32), torch.tensor([[4, 9, 20]]), torch.tensor([[1, 30, 7]])
    straight = predictor(context, ids, targets, (2, 4, 4), 0)
    turned = predictor(context[:, [2, 0, 1]], ids[:, [2, 0, 1]], targets[:, [1, 2, 0]], (2, 4, 4), 0)
    torch.testing.assert_close(turned, straight[:, [1, 2, 0]], atol=1e-5, rtol=1e-5)


def test_target_follows_slowly_and_gets_no_gradient(tiny):
    objective = make("vjepa2", tiny)
    before = [p.clone() for p in objective.target_encoder.parameters()]
    with torch.no_grad():
        for p in objective.encoder.parameters():
            p.add_(1.0)
    objective.after_step(1, 10)
    for old, new, online in zip(
        before, objective.target_encoder.parameters(), objective.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.99925 * old + 0.00075 * online)
        assert not new.requires_grad
