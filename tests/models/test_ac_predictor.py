"""The action-conditioned predictor: official names and shapes, what a frame sees, the cache, and every option."""

import pytest
import torch
import torch.nn.functional as F

from jepa.config import ConfigError
from jepa.models import ac_block
from jepa.models.ac_block import frame_causal
from jepa.models.ac_predictor import ACPredictor, ACPredictorConfig

GRID, N, D = (2, 3), 6, 8
OPTIONS = [
    {},
    {"window": 2},
    {"window": 1},
    {"residual": True},
    {"conditioning": "adaln", "window": 2},
    {"conditioning": "feature"},
    {"conditioning": "feature", "residual": True},
    {"proprio": False},
    {"extrinsics": True, "rope_layout": "tiled"},
    {"extrinsics": True, "proprio": False, "conditioning": "adaln"},
]
options = pytest.mark.parametrize("options", OPTIONS, ids=str)


def predictor_of(action_dim=7, noise=0.1, **options):
    config = ACPredictorConfig(**{"width": 24, "depth": 2, "heads": 2, **options})
    predictor = ACPredictor(config, D, action_dim, 7, GRID, torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in predictor.parameters():  # away from zeros, and loud enough for attention to mind
            p.add_(noise * torch.randn(p.shape, generator=rng))
    return predictor


def inputs_of(predictor, frames=4, rows=3, action_dim=7):
    """Tokens, actions, and states and extrinsics as far as they are read."""
    rng = torch.Generator().manual_seed(2)
    widths = [action_dim] + [7] * predictor.config.proprio + [6] * predictor.config.extrinsics
    return [torch.randn(rows, frames, *w, generator=rng) for w in ((N, D), *((w,) for w in widths))]


def cut(inputs, frames):
    return [part[:, frames] for part in inputs]


def test_names_and_shapes_are_the_official_ones():
    """Spec of V-JEPA 2-AC: width 1024, 24 blocks, actions and states of 7 numbers, extrinsics of 6, 305.2 M."""
    with torch.device("meta"):
        config = ACPredictorConfig(extrinsics=True)
        predictor = ACPredictor(config, 1408, 7, 7, (16, 16), torch.Generator())
    wanted = {"predictor_embed": (1408, 1024), "predictor_proj": (1024, 1408)}
    wanted |= {"action_encoder": (7, 1024), "state_encoder": (7, 1024), "extrinsics_encoder": (6, 1024)}
    blocks = [f"predictor_blocks.{i}." for i in range(24)]
    for block in blocks:
        wanted |= {f"{block}attn.qkv": (1024, 3072), f"{block}attn.proj": (1024, 1024)}
        wanted |= {f"{block}mlp.fc1": (1024, 4096), f"{block}mlp.fc2": (4096, 1024)}
    table = {f"{k}.weight": (o, i) for k, (i, o) in wanted.items()} | {
        f"{k}.bias": (o,) for k, (_, o) in wanted.items()
    }
    for norm in ("predictor_norm", *(f"{block}norm{n}" for block in blocks for n in (1, 2))):
        table |= {f"{norm}.weight": (1024,), f"{norm}.bias": (1024,)}
    assert {k: tuple(v.shape) for k, v in predictor.state_dict().items()} == table
    assert sum(p.numel() for p in predictor.parameters()) / 1e6 == pytest.approx(305.2, abs=0.05)


def masked_pass(predictor, inputs):
    """The plain reading: all tokens under a dense mask; for the options whose blocks are those of V-JEPA 2-AC."""
    x, *conditions = inputs
    frames, size = x.shape[1], len(conditions) + N
    encoders = [predictor.action_encoder, predictor.state_encoder, predictor.extrinsics_encoder]
    front = [e(c)[:, :, None] for e, c in zip([e for e in encoders if e], conditions, strict=True)]
    h = torch.cat((*front, predictor.predictor_embed(x)), dim=2).flatten(1, 2)
    rope = predictor._rope({}, frames, h.device)
    time = torch.arange(frames).repeat_interleave(size)
    age = time[:, None] - time[None]
    mask = (age >= 0) & (age < (predictor.config.window or frames))
    for block in predictor.predictor_blocks:
        h = h + block.attn(block.norm1(h), rope, mask)
        h = h + block.mlp(block.norm2(h))
    h = h.unflatten(1, (frames, size))[:, :, len(conditions) :]
    return predictor.predictor_proj(predictor.predictor_norm(h))


@pytest.mark.parametrize("options", [o for o in OPTIONS if not {"residual", "conditioning"} & o.keys()], ids=str)
def test_frame_by_frame_attention_equals_a_dense_mask(options):
    predictor = predictor_of(**options)
    inputs = inputs_of(predictor)
    torch.testing.assert_close(predictor(*inputs), masked_pass(predictor, inputs), atol=1e-5, rtol=1e-5)


@options
@pytest.mark.parametrize("steps", [(1, 1, 1, 1), (2, 1, 1), (1, 3)])
def test_cached_steps_equal_the_full_pass(options, steps):
    predictor = predictor_of(**options)
    inputs = inputs_of(predictor)
    full, cache, outs, first = predictor(*inputs), {}, [], 0
    for count in steps:
        known = dict(cache)
        ahead = predictor.look_ahead(cache, inputs[0][:, first]) if count == 1 else cache
        out, cache = predictor(*cut(inputs, slice(first, first + count)), cache=ahead)
        assert all(torch.equal(known[k], ahead[k]) for k in known)
        outs.append(out)
        first += count
    torch.testing.assert_close(torch.cat(outs, dim=1), full, atol=1e-5, rtol=1e-5)


@options
def test_a_cache_holds_no_more_than_can_be_seen(options):
    predictor = predictor_of(**options)
    _, cache = predictor(*inputs_of(predictor), cache={})
    window = predictor.config.window
    extra = len(inputs_of(predictor)) - 1 if predictor.config.conditioning == "token" else 0
    held = {v.shape[1] for k, v in cache.items() if k != "time"}
    assert held == (set() if window == 1 else {(min(window - 1, 4) if window else 4) * (N + extra)})


@pytest.mark.parametrize(("window", "reach"), [(0, 4), (1, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("conditioning", ["token", "adaln", "feature"])
def test_which_frames_a_frame_sees(window, reach, conditioning):
    """One block: changing a frame's tokens or action moves the outputs of the next `reach` frames and no other."""
    predictor = predictor_of(depth=1, window=window, conditioning=conditioning)
    inputs = inputs_of(predictor)
    for part in range(3):
        changed = [v.clone() for v in inputs]
        changed[part][:, 0] += 1
        moved = (predictor(*changed) - predictor(*inputs)).abs().amax((0, 2, 3))
        assert [bool(m > 1e-4) for m in moved] == [t < reach for t in range(4)]


@options
def test_every_parameter_gets_a_gradient_and_rows_do_not_mix(options):
    predictor = predictor_of(**options)
    inputs = inputs_of(predictor)
    out = predictor(*inputs)
    out.square().sum().backward()
    missing = [n for n, p in predictor.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing
    alone = predictor(*(part[1:2] for part in inputs))
    torch.testing.assert_close(alone, out[1:2], atol=1e-5, rtol=1e-5)


def test_adaptive_blocks_begin_as_the_identity():
    predictor = predictor_of(noise=0.0, conditioning="adaln")
    inputs = inputs_of(predictor)
    wanted = predictor.predictor_proj(predictor.predictor_norm(predictor.predictor_embed(inputs[0])))
    torch.testing.assert_close(predictor(*inputs), wanted)


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_checkpointing_changes_no_gradient(mode):
    gradients = []
    for checkpointing in ("none", mode):
        predictor = predictor_of(checkpointing=checkpointing)
        inputs = inputs_of(predictor)
        first, cache = predictor(*cut(inputs, slice(0, 1)), cache={})
        second, _ = predictor(first, *cut(inputs[1:], slice(1, 2)), cache=cache)  # through the cache
        second.square().sum().backward()
        gradients.append({n: p.grad for n, p in predictor.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])


def test_actions_of_any_width():
    predictor = predictor_of(action_dim=2, proprio=False)
    assert predictor(*inputs_of(predictor, action_dim=2)).shape == (3, 4, N, D)
    assert predictor.state_encoder is None


def test_windowed_attention_calls_no_more_keys_than_are_seen(monkeypatch):
    seen = []

    def counted(q, k, v, *, attend=F.scaled_dot_product_attention):
        seen.append((q.shape[2], k.shape[2]))
        return attend(q, k, v)

    monkeypatch.setattr(ac_block.F, "scaled_dot_product_attention", counted)
    q, k = torch.randn(1, 3 * 4, 2, 6), torch.randn(1, 5 * 4, 2, 6)
    frame_causal(q, k, k, frames=3, window=2)
    assert seen == [(4, 8)] * 3
    frame_causal(q, k, k, frames=3, window=0)
    assert seen[3:] == [(4, 12), (4, 16), (4, 20)]


def test_markov_and_a_window_of_one_are_the_same():
    assert ACPredictorConfig(markov=True) == ACPredictorConfig(window=1) == ACPredictorConfig(markov=True, window=1)
    with pytest.raises(ConfigError, match="window 3"):
        ACPredictorConfig(markov=True, window=3)
    with pytest.raises(ConfigError, match="conditioning 'film' is not one of token, adaln, feature"):
        ACPredictorConfig(conditioning="film")
