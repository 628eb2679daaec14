"""The encoder: kept patches only, any clip size, images, chosen layers, the names that released weights have."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from jepa.models.encoder import PatchEmbed, build_encoder, encode_frames


def test_embedding_equals_the_convolution(tiny):
    encoder = build_encoder(tiny, 0)
    frames = torch.randn(2, 4, 3, 16, 16)
    proj = encoder.patch_embed.proj
    slow = F.conv3d(rearrange(frames, "b t c h w -> b c t h w"), proj.weight, proj.bias, stride=proj.stride)
    slow = rearrange(slow, "b d t h w -> b (t h w) d")
    torch.testing.assert_close(encoder.patch_embed(frames, None), slow)
    keep = torch.tensor([[0, 5, 31], [2, 3, 17]])
    gathered = torch.stack([slow[i, keep[i]] for i in range(2)])
    torch.testing.assert_close(encoder.patch_embed(frames, keep), gathered)


def test_keeping_every_token_is_the_full_pass(tiny):
    encoder = build_encoder(tiny, 0)
    frames = torch.randn(2, 4, 3, 16, 16)
    full = encoder(frames)
    assert full.shape == (2, 32, 32)
    order = torch.stack([torch.randperm(32) for _ in range(2)])
    shuffled = encoder(frames, order)
    torch.testing.assert_close(shuffled, torch.stack([full[i, order[i]] for i in range(2)]), atol=1e-5, rtol=1e-5)


def test_other_sizes_and_lengths_work(tiny):
    encoder = build_encoder(tiny, 0)
    assert encoder(torch.randn(1, 6, 3, 12, 24)).shape == (1, 3 * 3 * 6, 32)


@pytest.mark.parametrize("shape", [(1, 3, 3, 16, 16), (1, 4, 3, 18, 16), (1, 0, 3, 16, 16)])
def test_clips_that_do_not_fit_are_refused(tiny, shape):
    with pytest.raises(ValueError, match="tubelets of 2×4×4"):
        build_encoder(tiny, 0)(torch.zeros(shape))


def test_an_image_is_shown_for_one_tubelet(tiny):
    encoder = build_encoder(tiny, 0)
    image = torch.randn(2, 1, 3, 16, 16)
    assert encoder.grid(1, 16, 16) == (1, 4, 4)
    assert torch.equal(encoder(image), encoder(image.expand(-1, 2, -1, -1, -1)))
    keep = torch.tensor([[3, 15], [0, 7]])
    assert torch.equal(encoder(image, keep), encoder(image.expand(-1, 2, -1, -1, -1), keep))


def test_chosen_layers_are_normed_streams(tiny):
    encoder = build_encoder(dataclasses.replace(tiny, depth=4), 0)
    frames, keep = torch.randn(2, 4, 3, 16, 16), torch.tensor([[0, 5, 31], [2, 3, 17]])
    x, streams = encoder.patch_embed(frames, keep), []
    rope = encoder.rope.table(keep, (2, 4, 4), 16)
    for block in encoder.blocks:
        x = block(x, rope)
        streams.append(x)
    third, first = encoder.blocks_out(frames, keep, (2, 0))
    assert torch.equal(third, streams[2]) and torch.equal(first, streams[0])
    normed = encoder(frames, keep, layers=[1, 3])
    assert all(torch.equal(a, encoder.norm(streams[i])) for a, i in zip(normed, (1, 3), strict=True))
    assert torch.equal(normed[1], encoder(frames, keep))


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_several_keeps_at_once_are_each_as_if_alone(tiny, drop_path):
    """Same tokens and gradients, and each drops what it would have dropped."""
    frames = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    keeps, results = [torch.tensor([[0, 5, 31], [2, 3, 17]]), torch.tensor([[1, 5], [9, 30]])], []
    for at_once in (True, False):
        encoder = build_encoder(dataclasses.replace(tiny, drop_path=drop_path), 0)
        out = encoder(frames, keeps) if at_once else torch.cat([encoder(frames, keep) for keep in keeps], dim=1)
        out.square().sum().backward()
        results.append([out, *(p.grad for p in encoder.parameters())])
    assert results[0][0].shape == (2, 5, 32)
    for fast, slow in zip(*results, strict=True):
        assert (fast - slow).abs().max() <= 1e-5 * slow.abs().max()


def test_blocks_beyond_the_last_layer_do_not_run(tiny):
    encoder = build_encoder(dataclasses.replace(tiny, depth=4), 0)
    encoder.blocks[2].register_forward_pre_hook(lambda *_: pytest.fail("block 2 ran"))
    encoder.blocks_out(torch.randn(1, 2, 3, 16, 16), None, (1,))


@pytest.mark.parametrize("layers", [(2,), (0, -1)])
def test_layers_that_are_not_there_are_refused(tiny, layers):
    with pytest.raises(ValueError, match="numbered 0 to 1"):
        build_encoder(tiny, 0)(torch.zeros(1, 2, 3, 16, 16), None, layers)


def test_another_patch_embedding_can_take_the_place(tiny):
    encoder = build_encoder(tiny, 0)
    still = PatchEmbed(4, 1, 32)
    image = torch.randn(2, 1, 3, 16, 16)
    (own,), (other,) = (encoder.blocks_out(image, None, (1,), embed) for embed in (None, still))
    assert other.shape == own.shape == (2, 16, 32)
    with torch.no_grad():  # the two frames of a still tubelet weigh together what the image's one frame does
        still.proj.weight.copy_(encoder.patch_embed.proj.weight.sum(2, keepdim=True))
        still.proj.bias.copy_(encoder.patch_embed.proj.bias)
    assert not torch.allclose(other, own, atol=1e-3)
    torch.testing.assert_close(encoder.blocks_out(image, None, (1,), still)[0], own, atol=1e-5, rtol=1e-5)


def test_position_options_reach_the_blocks(tiny):
    """The grid of a 256 px clip is the reference, 64×64 for patch 4: interpolation does nothing there."""
    encoders = {
        name: build_encoder(dataclasses.replace(tiny, width=64, **changes), 0)
        for name, changes in {
            "plain": {},
            "interpolated": {"rope_interpolate": True},
            "rounded": {"rope_bf16": True},
            "tiled": {"rope_layout": "tiled"},
        }.items()
    }
    for encoder in encoders.values():
        for block in encoder.blocks:
            torch.nn.init.normal_(block.attn.qkv.weight, generator=torch.Generator().manual_seed(0))
    large, small, ids = torch.randn(1, 2, 3, 256, 256), torch.randn(1, 2, 3, 32, 48), torch.arange(0, 4096, 97)[None]
    plain = encoders["plain"]
    assert torch.equal(encoders["interpolated"](large, ids), plain(large, ids))
    for name in ("interpolated", "rounded", "tiled"):
        assert (encoders[name](small) - plain(small)).abs().max() > 1e-2, name
    assert build_encoder(dataclasses.replace(tiny, patch=14, rope_interpolate=True), 0).rope.reference == 18


def test_one_graph_for_the_compiler(tiny):
    """Static shapes give one graph, forward and backward; no code is generated here, that would take a minute."""
    encoder = build_encoder(dataclasses.replace(tiny, depth=1), 0)
    frames, keep = torch.randn(1, 4, 3, 16, 16), torch.tensor([[0, 5, 31]])
    compiled = torch.compile(encoder, dynamic=False, fullgraph=True, backend="aot_eager")
    gradients = []
    for model in (encoder, compiled):
        out = model(frames, keep)
        out.square().mul(torch.arange(32)).sum().backward()
        gradients.append([out.detach(), *(p.grad for p in encoder.parameters())])
        encoder.zero_grad(set_to_none=True)
    for wanted, given in zip(*gradients, strict=True):
        torch.testing.assert_close(given, wanted, atol=1e-4, rtol=1e-4)


def test_names_are_those_of_released_weights(tiny):
    names = set(build_encoder(tiny, 0).state_dict())
    block = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    parts = ["patch_embed.proj", "norm", *(f"blocks.{i}.{b}" for i in range(2) for b in block)]
    assert names == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def test_same_seed_same_weights(tiny):
    a, b, c = (build_encoder(tiny, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["blocks.0.attn.qkv.weight"], c["blocks.0.attn.qkv.weight"])


def test_frames_are_encoded_alone_and_normed(tiny):
    encoder = build_encoder(tiny, 0)
    frames = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    tokens = encode_frames(encoder, frames)
    assert tokens.shape == (2, 3, 16, 32)
    torch.testing.assert_close(tokens[1, 2], encode_frames(encoder, frames[1:, 2:])[0, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 3, 16), atol=1e-5, rtol=0)
