"""V-JEPA 2-AC: causality, memory, the loss, and the WorldModel contract."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from jepa.config import ConfigError, load_config
from jepa.models.ac_predictor import ACPredictor, ACPredictorConfig
from jepa.optim import learning_rate, weight_decay
from jepa.pose import integrate
from jepa.posttrain import PosttrainConfig
from jepa.runs import Reading
from jepa.worlds import ac_jepa
from jepa.worlds.base import Sequence, WorldSpec, rollout, score

SPEC = WorldSpec(embed_dim=8, action_dim=7, state_dim=7, grid=(2, 3))
SMALL = ACPredictorConfig(width=24, depth=2, heads=2)


def world_of(seed=0, world=None, **changes):
    predictor = dataclasses.replace(SMALL, **changes)
    world = ac_jepa.build(ac_jepa.Config(predictor, **(world or {})), SPEC, torch.Generator().manual_seed(seed))
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


def test_training_starts_at_copy_last_frame():
    predictor = ACPredictor(
        dataclasses.replace(SMALL, residual=True), 8, 7, 7, (2, 3), torch.Generator().manual_seed(0)
    )
    d = data_of()
    assert torch.equal(predictor(d.tokens[:, :3], d.actions, d.states[:, :3]), d.tokens[:, :3])


@pytest.mark.parametrize("scale", ["standard", "layer_norm"])
@pytest.mark.parametrize("window", [0, 1, 2])
@pytest.mark.parametrize("unrolled", [1, 2, 4])
def test_loss_equals_a_slow_reading(window, scale, unrolled):
    """Whole passes over ever longer histories; the roll-out keeps measured poses and counts its first frame again."""
    world, d = world_of(world={"rollout": unrolled, "scale": scale}, window=window), data_of(frames=5)
    world.fit_scales(d)
    x = (d.tokens - world.mean) / world.std
    a, s = d.actions / world.action_scale, (d.states - world.state_mean) / world.state_scale

    def predict(history):
        out = world.predictor(history, a[:, : history.shape[1]], s[:, : history.shape[1]])
        return F.layer_norm(out, (8,)) if scale == "layer_norm" else out

    forced = predict(x[:, :-1])
    history = torch.cat((x[:, :1], forced[:, :1]), dim=1)
    for _ in range(unrolled - 1):
        history = torch.cat((history, predict(history)[:, -1:]), dim=1)
    wanted = (forced - x[:, 1:]).abs().mean() + (history[:, 1:] - x[:, 1 : unrolled + 1]).abs().mean()
    loss, metrics = world(d)
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
    assert sum(metrics.values()) == pytest.approx(loss.item())
    parameters = list(world.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(wanted, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_roll_out_longer_than_the_window_is_refused():
    with pytest.raises(ConfigError, match="rollout=4 needs windows of 5 frames"):
        world_of(world={"rollout": 4})(data_of())


@pytest.mark.parametrize("residual", [False, True])
def test_every_parameter_gets_a_gradient(residual):
    world = world_of(residual=residual)
    world(data_of())[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in world.parameters())


@pytest.mark.parametrize("window", [0, 1, 2])
def test_observing_frame_by_frame_equals_observing_at_once(window):
    world, d = world_of(window=window), data_of()
    at_once = world.observe(None, d.tokens, d.states, d.actions)
    state = world.observe(None, d.tokens[:, :1], d.states[:, :1])
    for t in range(1, 4):
        state = world.observe(state, d.tokens[:, t : t + 1], d.states[:, t : t + 1], d.actions[:, t - 1 : t])
    first = world.observe(None, d.tokens[:, :1], d.states[:, :1])
    in_two = world.observe(first, d.tokens[:, 1:], d.states[:, 1:], d.actions)
    assert state.keys() == at_once.keys() == in_two.keys()
    for key in state:
        torch.testing.assert_close(state[key], at_once[key])
        torch.testing.assert_close(in_two[key], at_once[key])
    frames = {v.shape[1] // 8 for k, v in state.items() if k.startswith(("keys.", "values."))}
    assert frames == {0: {3}, 1: set(), 2: {1}}[window]


def test_frames_without_actions_are_observed_as_if_nothing_had_been_done():
    world, d = world_of(), data_of()
    still = torch.zeros_like(d.actions)
    for state in (None, world.observe(None, d.tokens[:, :1], d.states[:, :1])):
        seen = d.tokens[:, 1:], d.states[:, 1:]
        told = still[:, 1:] if state is None else still
        torch.testing.assert_close(world.observe(state, *seen), world.observe(state, *seen, told))


@pytest.mark.parametrize("scale", ["standard", "layer_norm"])
@pytest.mark.parametrize("window", [0, 1, 2])
def test_stepping_equals_the_full_pass(window, scale):
    """Two observed frames, three imagined ones, each from a pass over all that came before."""
    world, d = world_of(world={"scale": scale}, window=window), data_of()
    world.fit_scales(d)
    actions = 0.1 * torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(4))
    state = world.observe(None, d.tokens[:, :2], d.states[:, :2], actions[:, :1])
    tokens, poses = world.standardise(d.tokens[:, :2]), d.states[:, :2]
    for t in range(1, 4):
        kept = {k: v.clone() for k, v in state.items()}
        after = world.step(state, actions[:, t]).state
        assert all(torch.equal(kept[k], state[k]) for k in kept)  # step leaves its input alone
        state = after
        scaled = (poses - world.state_mean) / world.state_scale
        predicted = world.predictor(tokens, actions[:, : t + 1] / world.action_scale, scaled)[:, -1:]
        predicted = F.layer_norm(predicted, (8,)) if scale == "layer_norm" else predicted
        tokens = torch.cat((tokens, predicted), dim=1)
        poses = torch.cat((poses, integrate(poses[:, -1:], actions[:, t : t + 1])), dim=1)
        torch.testing.assert_close(world.features(state), tokens[:, -1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(state["pose"], poses[:, -1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [0, 1])
def test_candidates_share_what_is_known_and_do_not_mix(window):
    world, d = world_of(window=window), data_of()
    state = world.observe(None, d.tokens, d.states, d.actions)
    actions = 0.1 * torch.randn(3, 4, 2, 7, generator=torch.Generator().manual_seed(3))
    many = rollout(world, state, actions).features
    torch.testing.assert_close(many[:, 2:3], rollout(world, state, actions[:, 2:3]).features, atol=1e-5, rtol=1e-5)
    assert (many[:, 2] - many[:, 1]).abs().max() > 1e-4


def test_gradients_reach_the_actions_through_the_cache():
    world, d = world_of(), data_of()
    actions = (0.1 * torch.randn(3, 1, 3, 7, generator=torch.Generator().manual_seed(3))).requires_grad_()
    state = world.observe(None, d.tokens[:, :1], d.states[:, :1])
    rollout(world, state, actions, last_only=True).features.square().sum().backward()
    assert (actions.grad.abs().amax((0, 1, 3)) > 1e-4).all()


def test_layer_norm_leaves_scales_alone_and_normalises_what_is_predicted():
    world, d = world_of(world={"scale": "layer_norm"}), data_of()
    world.fit_scales(d)
    assert torch.equal(world.standardise(d.tokens), d.tokens)
    assert all(torch.equal(b, torch.full_like(b, float(b.max()))) for b in world.buffers())
    out = world.features(world.step(world.observe(None, d.tokens[:, :1], d.states[:, :1]), d.actions[:, 0]).state)
    torch.testing.assert_close(out.mean(-1), torch.zeros(3, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.square().mean(-1), torch.ones(3, 6), atol=1e-3, rtol=0)


def test_a_predictor_from_elsewhere_becomes_a_world():
    predictor, d = world_of(rope_layout="tiled").predictor.eval(), data_of()
    world = ac_jepa.wrap(predictor)
    assert world.predictor is predictor and not world.training
    state = world.observe(None, d.tokens[:, :2], d.states[:, :2], d.actions[:, :1])
    wanted = F.layer_norm(predictor(d.tokens[:, :2], d.actions[:, :2], d.states[:, :2])[:, -1], (8,))
    torch.testing.assert_close(world.features(world.step(state, d.actions[:, 1]).state), wanted, atol=1e-5, rtol=1e-5)


def test_without_proprioception_actions_have_any_width_and_there_is_no_pose():
    config = ac_jepa.Config(dataclasses.replace(SMALL, proprio=False))
    world = ac_jepa.build(config, WorldSpec(8, 2, 5, (2, 3)), torch.Generator().manual_seed(0))
    d = data_of()
    d = Sequence(d.tokens, d.actions[..., :2], d.states[..., :5])
    world.fit_scales(d)
    world(d)[0].backward()
    state = world.observe(None, d.tokens[:, :2], d.states[:, :2], d.actions[:, :1])
    without = world.observe(None, d.tokens[:, :2], None, d.actions[:, :1])
    stepped = world.step(state, d.actions[:, 1]).state
    assert "pose" not in stepped and state.keys() == without.keys()
    assert torch.equal(world.features(stepped), world.features(world.step(without, d.actions[:, 1]).state))


def test_a_still_camera_stands_behind_the_pose():
    config = ac_jepa.Config(dataclasses.replace(SMALL, extrinsics=True))
    world = ac_jepa.build(config, WorldSpec(8, 7, 13, (2, 3)), torch.Generator().manual_seed(0))
    d, camera = data_of(), torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(5))
    d = Sequence(d.tokens, d.actions, torch.cat((d.states, camera), dim=-1))
    world.fit_scales(d)
    world(d)[0].backward()
    assert world.predictor.extrinsics_encoder.weight.grad.abs().sum() > 0
    state = world.observe(None, d.tokens[:, :1], d.states[:, :1])
    pose = world.step(state, d.actions[:, 0]).state["pose"]
    assert torch.equal(pose[..., 7:], camera[:, :1])
    torch.testing.assert_close(pose[..., :7], integrate(d.states[:, :1, :7], d.actions[:, :1]))


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


def test_scoring_and_training_compile_without_a_break():
    """Traced as a whole: static shapes, and no decision that depends on the data."""
    world, d = world_of(world={"scale": "layer_norm"}, window=2, depth=1), data_of(frames=3)
    state, wanted = world.observe(None, d.tokens[:, :1], d.states[:, :1]), d.tokens[:, 2:]

    def energies(state, actions):
        return score(world, state, actions, lambda future: (future.features[:, :, -1] - wanted).abs().mean((2, 3)))

    actions = 0.1 * torch.randn(3, 4, 2, 7, generator=torch.Generator().manual_seed(3))
    for function, inputs in ((energies, (state, actions)), (lambda *d: world(Sequence(*d))[0], vars(d).values())):
        traced = torch.compile(function, backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(traced(*inputs), function(*inputs))


def test_half_precision_by_autocast_is_close():
    world, d = world_of(world={"scale": "layer_norm"}), data_of()
    state = world.observe(None, d.tokens[:, :1], d.states[:, :1])
    actions = 0.1 * torch.randn(3, 4, 3, 7, generator=torch.Generator().manual_seed(3))
    with torch.autocast("cpu", torch.bfloat16):
        rough = rollout(world, world.observe(None, d.tokens[:, :1], d.states[:, :1]), actions).features
        world(d)[0].backward()
    assert (rough - rollout(world, state, actions).features).abs().mean() < 0.03
    assert all(p.grad.isfinite().all() for p in world.parameters())


def test_the_recipe_of_droid_is_the_papers():
    config = load_config(PosttrainConfig, "posttrain", "droid_vitg")
    with torch.device("meta"):
        world = ac_jepa.build(config.world, WorldSpec(1408, 7, 7, (16, 16)), torch.Generator())
    assert sum(p.numel() for p in world.parameters()) / 1e6 == pytest.approx(305.2, abs=0.05)
    assert (config.frames, config.batch_size, config.loop.steps, config.loop.precision) == (8, 256, 94_500, "bf16")
    assert (config.world.scale, config.world.rollout, config.world.mse_weight) == ("layer_norm", 2, 0.0)
    assert config.world.predictor == ACPredictorConfig(checkpointing="full")
    assert config.reading == Reading(4.0, crop="squeeze")
    rates = [learning_rate(config.loop.optim, step, 94_500) for step in (0, 2250, 4500, 90_000, 92_250, 94_500)]
    assert rates == pytest.approx([7.5e-5, 2.5e-4, 4.25e-4, 4.25e-4, 2.125e-4, 0.0])
    assert weight_decay(config.loop.optim, 50_000, 94_500) == 0.04


def test_what_cannot_be_is_one_line():
    with pytest.raises(ConfigError, match=r"7-D end-effector poses .* actions of 26 and states of 26 .*proprio=false"):
        ac_jepa.build(ac_jepa.Config(SMALL), WorldSpec(8, 26, 26, (2, 3)), torch.Generator())
    with pytest.raises(
        ConfigError, match=r"actions of 7 and states of 3 .*proprio=false and world.predictor.extrinsics=false"
    ):
        config = ac_jepa.Config(dataclasses.replace(SMALL, extrinsics=True))
        ac_jepa.build(config, WorldSpec(8, 7, 9, (2, 3)), torch.Generator())
    with pytest.raises(ConfigError, match="scale 'raw' is not one of standard, layer_norm"):
        ac_jepa.Config(scale="raw")
    with pytest.raises(ConfigError, match="rollout 0"):
        ac_jepa.Config(rollout=0)
