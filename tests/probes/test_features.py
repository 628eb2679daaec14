"""Features: shapes alike for every row of the table, and a cache that changes nothing."""

import torch

from jepa.data.transforms import normalize
from jepa.models.encoder import build_encoder
from jepa.probes import features


def clips(count: int = 10) -> torch.Tensor:
    return torch.randint(0, 256, (count, 4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pixel_tokens_have_the_encoders_grid_and_all_the_pixels(tiny):
    frames = clips()
    tokens, pixels = features.encode(build_encoder(tiny, 0), frames), features.pixel_tokens(frames, 4, 2)
    assert tokens.shape == (10, 2 * 16, 32) and pixels.shape == (10, 2 * 16, 3 * 2 * 4 * 4)
    # token 21 is time step 1, row 1, column 1: frames 2 and 3, rows and columns 4 to 7
    expected = normalize(frames)[3, 2:4, :, 4:8, 4:8]
    assert torch.equal(pixels[3, 21], expected.flatten())


def test_encoding_does_not_depend_on_the_batch(tiny):
    encoder, frames = build_encoder(tiny, 0), clips(features.BATCH + 3)
    assert torch.allclose(features.encode(encoder, frames)[-1:], features.encode(encoder, frames[-1:]), atol=1e-5)


def test_views(tiny):
    frames, encoder = clips(), build_encoder(tiny, 0)
    tokens = features.encode(encoder, frames)
    assert torch.equal(features.view("tokens", tokens, frames, "pretrained"), tokens)
    assert torch.equal(features.view("pooled", tokens, frames, "pretrained"), tokens.mean(1))
    assert features.view("flat", tokens, frames, "pretrained").shape == (10, 32 * 32)
    # frames of 16 px are their own thumbnails
    assert torch.allclose(features.view("flat", tokens, frames, "pixels"), normalize(frames).flatten(1), atol=1e-5)


def test_the_cache_gives_the_same_bits_and_knows_weights_and_clips(tiny, tmp_path, monkeypatch):
    frames, encoder, file = clips(), build_encoder(tiny, 0), tmp_path / "clips-1.safetensors"
    first = features.cached_tokens(tmp_path, encoder, file, frames, "forwards")
    assert torch.allclose(first, features.encode(encoder, frames), atol=2e-3)

    encoded = []
    monkeypatch.setattr(features, "encode", lambda *a: encoded.append(a) or torch.zeros(1))
    assert torch.equal(features.cached_tokens(tmp_path, encoder, file, frames, "forwards"), first)
    assert not encoded
    features.cached_tokens(tmp_path, encoder, file, frames, "backwards")
    features.cached_tokens(tmp_path, encoder, tmp_path / "clips-2.safetensors", frames, "forwards")
    features.cached_tokens(tmp_path, build_encoder(tiny, 1), file, frames, "forwards")
    assert len(encoded) == 3
