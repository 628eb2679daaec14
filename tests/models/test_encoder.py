"""The encoder: kept patches only, any clip size, the sizes and names that released weights have."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from jepa.models.encoder import Encoder, EncoderConfig, build_encoder, encode_frames


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


@pytest.mark.parametrize(
    ("width", "depth", "heads", "ratio", "millions"),
    [(192, 12, 3, 4, 5.63), (1024, 24, 16, 4, 303.89), (1408, 40, 22, 48 / 11, 1012.17)],
)
def test_parameter_counts_of_the_paper(width, depth, heads, ratio, millions):
    config = EncoderConfig(256, 16, 2, width, depth, heads, ratio)
    with torch.device("meta"):
        encoder = Encoder(config, None)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


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
