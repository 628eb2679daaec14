"""V-JEPA 2-AC: causality, memory, the loss, and the WorldModel contract."""

import dataclasses

import pytest
import torch

from jepa.config import ConfigError
from jepa.models.ac_predictor import ACPredictor, ACPredictorConfig
from jepa.worlds import ac_jepa
from jepa.worlds.base import Sequence, WorldSpec, rollout

SPEC = WorldSpec(embed_dim=8, action_dim=7, state_dim=7, grid=(2, 3))
SMALL = ACPredictorConfig(width=24, depth=2, heads=2)


def world_of(seed=0, **changes):
    predictor = dataclasses.replace(SMALL, **changes)
    world = ac_jepa.build(ac_jepa.Config(predictor), SPEC, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for p in world.parameters():  # away from the zero initialisation
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + 1)))
    return world


def data_of(rows=3, frames=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return Sequence(
        torch.randn(rows, frames, 6, 8, generator=rng),
        0.1 * torch.randn(rows, frames - 1, 7, generator=rng),
        torch.randn(rows, frames, 7, generator=rng),
    )


@pytest.mark.parametrize("markov", [False, True])
def test_output_of_a_prefix_is_the_prefix_of_the_output(markov):
    predictor, d = world_of(markov=markov).predictor, data_of()
    actions = torch.cat((d.actions, d.actions[:, :1]), dim=1)
    full = predictor(d.tokens, actions, d.states)
    prefix = predictor(d.tokens[:, :2], actions[:, :2], d.states[:, :2])
    torch.testing.assert_close(full[:, :2], prefix, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("markov", "reach"), [(False, 3), (True, 1)])
def test_which_frames_a_frame_sees(markov, reach):
    """Changing frame 0 moves the outputs of the first `reach` frames and no other."""
    config = ACPredictorConfig(width=24, depth=1, heads=2, markov=markov)
    predictor = ACPredictor(config, 8, 7, 7, (2, 3), torch.Generator().manual_seed(0))
    d = data_of(frames=3)
    actions = torch.cat((d.actions, d.actions[:, :1]), dim=1)
    changed = d.tokens.clone()
    changed[:, 0] += 1
    moved = (predictor(changed, actions, d.states) - predictor(d.tokens, actions, d.states)).abs().amax((0, 2, 3))
    assert [bool(m > 1e-4) for m in moved] == [t < reach for t in range(3)]


def test_training_starts_at_copy_last_frame():
    predictor = ACPredictor(
        dataclasses.replace(SMALL, residual=True), 8, 7, 7, (2, 3), torch.Generator().manual_seed(0)
    )
    d = data_of()
    assert torch.equal(predictor(d.tokens[:, :3], d.actions, d.states[:, :3]), d.tokens[:, :3])


@pytest.mark.parametrize("markov", [False, True])
def test_loss_equals_a_slow_reading(markov):
    """Teacher forcing frame by frame; the roll-out feeds predictions back and keeps measured poses."""
    world, d = world_of(markov=markov), data_of()
    world.fit_scales(d)
    x = (d.tokens - world.mean) / world.std

    def predict(history, t):
        low = t if markov else 0
        return world._predict(history[:, low : t + 1], d.actions[:, low : t + 1], d.states[:, low : t + 1])[:, -1]

    forced = torch.stack([(predict(x, t) - x[:, t + 1]).abs().mean() for t in range(3)]).mean()
    first = predict(x, 0)
    second = predict(torch.stack((x[:, 0], first), dim=1), 1)
    unrolled = (torch.stack((first, second), dim=1) - x[:, 1:3]).abs().mean()
    torch.testing.assert_close(world(d)[0], forced + unrolled, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("residual", [False, True])
def test_every_parameter_gets_a_gradient(residual):
    world = world_of(residual=residual)
    world(data_of())[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in world.parameters())


@pytest.mark.parametrize("markov", [False, True])
def test_observing_frame_by_frame_equals_observing_at_once(markov):
    world, d = world_of(markov=markov), data_of()
    at_once = world.observe(None, d.tokens, d.states, d.actions)
    state = world.observe(None, d.tokens[:, :1], d.states[:, :1])
    for t in range(1, 4):
        state = world.observe(state, d.tokens[:, t : t + 1], d.states[:, t : t + 1], d.actions[:, t - 1 : t])
    assert state.keys() == at_once.keys()
    for key in state:
        torch.testing.assert_close(state[key], at_once[key])
    assert at_once["tokens"].shape[1] == (1 if markov else 4)


@pytest.mark.parametrize("markov", [False, True])
def test_stepping_equals_the_full_pass(markov):
    world, d = world_of(markov=markov), data_of()
    state = world.observe(None, d.tokens[:, :1], d.states[:, :1])
    kept = {k: v.clone() for k, v in state.items()}
    stepped = world.step(world.step(state, d.actions[:, 0]).state, d.actions[:, 1]).state
    assert all(torch.equal(kept[k], state[k]) for k in kept)  # step leaves its input alone
    x = world.standardise(d.tokens[:, :1])
    first = world._predict(x, d.actions[:, :1], d.states[:, :1])
    from jepa.pose import integrate

    poses = torch.stack((d.states[:, 0], integrate(d.states[:, 0], d.actions[:, 0])), dim=1)
    low = int(markov)
    history = torch.cat((x, first), dim=1)
    second = world._predict(history[:, low:], d.actions[:, low:2], poses[:, low:])[:, -1]
    torch.testing.assert_close(world.features(stepped), second, atol=1e-5, rtol=1e-5)


def test_rollout_rows_do_not_mix():
    world, d = world_of(markov=True), data_of()
    state = world.observe(None, d.tokens[:, :1], d.states[:, :1])
    actions = 0.1 * torch.randn(3, 4, 2, 7, generator=torch.Generator().manual_seed(2))
    both = rollout(world, state, actions).features
    alone = rollout(world, {k: v[1:2] for k, v in state.items()}, actions[1:2]).features
    assert both.shape == (3, 4, 2, 6, 8)
    torch.testing.assert_close(both[1:2], alone, atol=1e-5, rtol=1e-5)


def test_scales_make_training_tokens_standard():
    world, d = world_of(), data_of(rows=64)
    world.fit_scales(d)
    x = world.standardise(3 * d.tokens + 1)
    world.fit_scales(Sequence(3 * d.tokens + 1, d.actions, d.states))
    x = world.standardise(3 * d.tokens + 1)
    torch.testing.assert_close(x.mean((0, 1)), torch.zeros(6, 8), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.square().mean((0, 1, 2)), torch.ones(8), atol=1e-3, rtol=0)


def test_other_widths_than_seven_are_refused():
    with pytest.raises(ConfigError, match="7-D end-effector poses"):
        ac_jepa.build(ac_jepa.Config(SMALL), WorldSpec(8, 26, 26, (2, 3)), torch.Generator())
