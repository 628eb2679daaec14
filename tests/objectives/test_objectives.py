"""Contract of every objective: finite, trainable to the last parameter, blind to the order of the batch, repeatable."""

import dataclasses

import pytest
import torch

from jepa.config import plugin_names

NAMES = plugin_names("jepa.objectives")


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_finite_and_every_parameter_gets_a_gradient(name, make, clip_of, optimise):
    objective = make(name)
    clips = clip_of(), clip_of(frames=1)  # some parameters are for images
    for clip in clips:
        optimise(objective, clip, 1)  # the zero-initialised mask tokens have moved
    for clip in clips:
        loss, metrics = objective(clip)
        loss.backward()
        assert loss.isfinite() and loss.ndim == 0
        assert all(v.isfinite() and v.ndim == 0 and not v.requires_grad for v in metrics.values())
    for parameter_name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("frames", [4, 1])
@pytest.mark.parametrize("name", NAMES)
def test_loss_falls(name, frames, make, clip_of, optimise):
    losses = optimise(make(name), clip_of(frames=frames), 20, lr=1e-3)
    assert sum(losses[-3:]) / 3 < 0.99 * losses[0]  # noise has little to predict


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_batch_does_not_matter(name, make, clip_of):
    objective, clip = make(name), clip_of()
    order = torch.tensor([2, 0, 3, 1])
    shuffled = dataclasses.replace(clip, frames=clip.frames[order], sample_id=clip.sample_id[order])
    torch.testing.assert_close(objective(clip)[0], objective(shuffled)[0])


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_loss_and_no_other_randomness(name, make, clip_of):
    clip = clip_of()
    torch.manual_seed(1)
    first = make(name)(clip)[0]
    torch.manual_seed(2)
    objective = make(name)
    state = torch.get_rng_state()
    assert torch.equal(objective(clip)[0], first) and torch.equal(objective(clip)[0], first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(make(name, seed=3)(clip)[0], first)


@pytest.mark.parametrize("name", NAMES)
def test_target_is_kept_apart_or_is_the_encoder(name, make, clip_of):
    """What is saved under `encoder.` and `target_encoder.`: plain encoders of one shape."""
    objective = make(name)
    target = objective.target_encoder
    assert type(target) is type(objective.encoder)
    assert target.state_dict().keys() == objective.encoder.state_dict().keys()
    if target is objective.encoder:
        return
    objective(clip_of())[0].backward()
    assert not any(p.requires_grad or p.grad is not None for p in target.parameters())
    before = {n: p.clone() for n, p in objective.named_parameters() if n.startswith("target_")}
    with torch.no_grad():
        for parameter in objective.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    objective.after_step(1, 10)
    after = dict(objective.named_parameters())
    for key, old in before.items():
        torch.testing.assert_close(after[key], 0.99925 * old + 0.00075 * after[key.removeprefix("target_")])
