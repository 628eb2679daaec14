"""SwiGLU, drop path and initialisation: widths, rates and scales as defined, and randomness that can be resumed."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from jepa.models.encoder import build_encoder
from jepa.models.layers import DropPath, SwiGLU


def test_swiglu_is_two_thirds_as_wide_and_gated():
    mlp = SwiGLU(192, 768)
    assert (mlp.fc1.out_features, mlp.fc2.out_features, mlp.fc3.in_features) == (512, 512, 512)
    assert SwiGLU(12, 40).fc1.out_features == 32  # 26 up to a multiple of 8
    x = torch.randn(2, 3, 192, generator=torch.Generator().manual_seed(0))
    gate, value = F.linear(x, mlp.fc1.weight, mlp.fc1.bias), F.linear(x, mlp.fc2.weight, mlp.fc2.bias)
    torch.testing.assert_close(mlp(x), F.linear(gate * torch.sigmoid(gate) * value, mlp.fc3.weight, mlp.fc3.bias))


@pytest.mark.parametrize(("swiglu", "out"), [(False, "fc2"), (True, "fc3")])
def test_residual_projections_shrink_with_depth(tiny, swiglu, out):
    encoder = build_encoder(dataclasses.replace(tiny, width=96, depth=4, heads=4, swiglu=swiglu), 0)
    for layer, block in enumerate(encoder.blocks, start=1):
        for name, parameter in block.named_parameters():
            if name.endswith("weight") and "norm" not in name:
                scale = (2 * layer) ** -0.5 if name in ("attn.proj.weight", f"mlp.{out}.weight") else 1
                assert parameter.std().item() == pytest.approx(0.02 * scale, rel=0.05), name


def test_drop_rates_grow_linearly_and_keep_the_mean():
    drop = DropPath(0.4, 5, seed=0)
    scales = drop(torch.zeros(4000, 1, 1))  # (5, 2, B, 1, 1)
    assert scales.shape == (5, 2, 4000, 1, 1)
    rates = (scales == 0).float().mean((1, 2, 3, 4))
    torch.testing.assert_close(rates, torch.tensor([0, 0.1, 0.2, 0.3, 0.4]), atol=0.02, rtol=0)
    torch.testing.assert_close(scales.mean((1, 2, 3, 4)), torch.ones(5), atol=0.03, rtol=0)
    assert not torch.equal(drop(torch.zeros(4000, 1, 1)), scales)
    with pytest.raises(ValueError, match=r"from 0 to below 1, not 1\.0"):
        DropPath(1.0, 5, seed=0)


def test_dropped_branches_leave_the_stream_as_it_was(tiny):
    encoder = build_encoder(tiny, 0)
    block, rope = encoder.blocks[1], encoder.rope.table(torch.arange(4)[None], (1, 2, 2), 16)
    x = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0))
    nothing, attention_only = torch.zeros(2, 2, 1, 1), torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 2, 1, 1)
    assert torch.equal(block(x, rope, nothing), x)
    assert torch.equal(block(x, rope, attention_only), x + block.attn(block.norm1(x), rope))
    assert torch.equal(block(x, rope, torch.ones(2, 2, 1, 1)), block(x, rope))


@pytest.mark.parametrize("drop", [None, torch.tensor([[0.0, 2.0], [3.0, 0.5]])[..., None, None]])
def test_tokens_of_a_part_see_each_other_and_those_that_ask_come_out(tiny, drop):
    """A block gives for all parts at once what it gives for each alone, and the same gradients."""
    encoder = build_encoder(tiny, 0)
    block, (cos, sin) = encoder.blocks[0], encoder.rope.table(torch.arange(8)[None], (2, 2, 2), 16)
    torch.nn.init.normal_(block.attn.qkv.weight, generator=torch.Generator().manual_seed(1))
    leaves = [torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2)]
    parts, runs = [(0, 3), (2, 3)], [slice(0, 3), slice(3, 8)]
    at_once = block(leaves[0], (cos, sin), drop, parts)
    alone = [block(leaves[1][:, run], (cos[:, run], sin[:, run]), drop) for run in runs]
    outs = at_once, torch.cat((alone[0], alone[1][:, 2:]), dim=1)
    assert at_once.shape == (2, 6, 32)
    for out in outs:
        out.square().sum().backward()
    torch.testing.assert_close(outs[0], outs[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, atol=1e-5, rtol=1e-4)
    if drop is None:
        assert leaves[0].grad[:, 3:5].abs().min() > 0  # looked at, though they ask nothing


def test_drop_path_is_for_training_only_and_goes_on_where_it_stopped(tiny):
    dropping = dataclasses.replace(tiny, drop_path=0.5)
    plain, encoder, resumed, other = (build_encoder(c, s) for c, s in ((tiny, 3), *[(dropping, s) for s in (3, 3, 4)]))
    frames = torch.randn(4, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    other.load_state_dict(encoder.state_dict())
    before = torch.get_rng_state()
    first, second = encoder(frames), encoder(frames)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other(frames))  # same weights, a run of another seed
    assert torch.equal(resumed(frames), first)
    stopped = build_encoder(dropping, 3)
    stopped.load_state_dict(resumed.state_dict())
    assert torch.equal(stopped(frames), second)
    with torch.no_grad():
        assert torch.equal(encoder(frames), plain(frames))
    assert torch.equal(encoder.eval()(frames), plain(frames))
