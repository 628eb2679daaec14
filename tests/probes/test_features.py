"""Features: shapes alike for every row of the table, and a cache that changes nothing."""

import torch

from jepa.data.transforms import normalize
from jepa.models.encoder import build_encoder
from jepa.probes import features
from jepa.probes.store import Rows, open_store


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


def test_views_of_tokens_on_disk_are_those_of_tokens_in_memory(tiny, tmp_path):
    frames, encoder = clips(), build_encoder(tiny, 0)
    store = features.cached_tokens(tmp_path, encoder, tmp_path / "clips-1.safetensors", frames)
    ids = torch.tensor([7, 2, 3])
    rows, held = Rows(store.values, ids), store.values[ids].float()
    assert features.view("tokens", rows, frames, "pretrained") is rows
    for name in ("pooled", "flat"):
        assert torch.equal(features.view(name, rows, frames, "x"), features.view(name, held, frames, "x"))


def test_what_is_cached_is_not_encoded_again(tiny, tmp_path, monkeypatch):
    frames, encoder, file = clips(), build_encoder(tiny, 0), tmp_path / "clips-1.safetensors"
    first = features.cached_tokens(tmp_path, encoder, file, frames)
    assert torch.equal(first.values, features.encode(encoder, frames).half())

    encoded, real = [], features.encode
    monkeypatch.setattr(features, "encode", lambda e, x: encoded.append(len(x)) or real(e, x))
    again = features.cached_tokens(tmp_path, encoder, tmp_path / "clips-1+mylabels.safetensors", frames)
    assert torch.equal(again.values, first.values) and not encoded
    features.cached_tokens(tmp_path, encoder, file, frames, "arrow")
    features.cached_tokens(tmp_path, encoder, tmp_path / "clips-2.safetensors", frames)
    features.cached_tokens(tmp_path, build_encoder(tiny, 1), file, frames)
    assert encoded == [10, 10, 10]


def test_processes_encode_their_shares_and_clips_left_as_they_were_are_copied(tiny, tmp_path, monkeypatch):
    frames, encoder, file = clips(), build_encoder(tiny, 0), tmp_path / "clips-1.safetensors"
    drawn = features.cached_tokens(tmp_path, encoder, file, frames, share=(1, 3))
    assert drawn.missing().tolist() == [0, 1, 2, 3, 7, 8, 9]
    for rank in (0, 2):
        features.cached_tokens(tmp_path, encoder, file, frames, share=(rank, 3))
    assert drawn.complete

    changed, encoded, real = frames.clone(), [], features.encode
    changed[[1, 6]] = frames[[1, 6]].flip(1)
    monkeypatch.setattr(features, "encode", lambda e, x: encoded.append(x) or real(e, x))
    made = features.cached_tokens(tmp_path, encoder, file, changed, "arrow", plain=(frames, drawn))
    assert torch.equal(torch.cat(encoded), changed[[1, 6]])
    assert torch.equal(made.values[[0, 5]], drawn.values[[0, 5]]) and not torch.equal(made.values[6], drawn.values[6])
    assert torch.equal(made.values[[1, 6]], real(encoder, changed[[1, 6]]).half())


def test_a_few_clips_are_in_memory_at_a_time(tmp_path, monkeypatch):
    """Frames that are read when they are indexed, as a store and clips that a task changes are."""
    monkeypatch.setattr(features, "CHUNK", 4)
    frames, asked = clips(11), []

    class Lazy:
        shape = frames.shape

        def __len__(self):
            return len(frames)

        def __getitem__(self, ids):
            asked.append(len(ids))
            return frames[ids]

    plain = open_store(tmp_path, {"plain": True}, 11, (1,), torch.float32)
    plain.write(range(11), torch.zeros(11, 1))
    store = open_store(tmp_path, {}, 11, (1,), torch.float32)
    features.fill(store, Lazy(), lambda part: part.flatten(1).float().mean(1, keepdim=True), plain=(Lazy(), plain))
    assert asked == [4, 4, 4, 4, 3, 3] and store.complete and not store.values.any()  # all were copied

    thumbnails = features.view("flat", torch.empty(0), Rows(Lazy(), torch.arange(11)), "pixels")
    assert max(asked) == 4 and torch.equal(thumbnails, features.thumbnails(frames))


def test_pixel_axes_are_those_of_all_tokens_and_of_no_other_rows():
    frames, rows = clips(20), torch.tensor([0, 3, *range(6, 19)])
    axes = features.pixel_axes(frames, rows, 4, 2, 5)
    tokens = features.pixel_tokens(frames[rows], 4, 2).flatten(0, 1)
    own = torch.linalg.svd(tokens - tokens.mean(0), full_matrices=False).Vh[:5].T
    torch.testing.assert_close((axes * own).sum(0).abs(), torch.ones(5), atol=1e-4, rtol=0)
    narrowed = features.narrowed(frames, 4, 2, axes)
    torch.testing.assert_close(narrowed, features.pixel_tokens(frames, 4, 2) @ axes)
