"""Levels of an encoder: the paper's blocks, own norms, own patches for images; and the predictor over all of them."""

import pytest
import torch

from jepa.models.encoder import build_encoder
from jepa.models.levels import Levels, LevelsPredictor, level_blocks
from jepa.models.predictor import PredictorConfig


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(12, (2, 5, 8, 11)), (24, (5, 11, 17, 23)), (40, (9, 19, 29, 39)), (48, (11, 23, 37, 47)), (2, (0, 1)), (1, (0,))],
)
def test_levels_are_the_papers(depth, blocks):
    assert level_blocks(depth) == blocks


def test_every_level_has_its_norm_and_the_last_is_what_the_encoder_says_alone(tiny):
    encoder = build_encoder(tiny, 0)
    levels = Levels(encoder, (0, 1), generator())
    with torch.no_grad():
        levels.norms[0].weight.fill_(3.0)
        encoder.norm.weight.fill_(2.0)
    frames, keep = torch.randn(2, 4, 3, 16, 16, generator=generator()), torch.tensor([[3, 17], [30, 2]])
    first, last = levels(encoder, frames, keep)
    torch.testing.assert_close(first.std(-1, correction=0), torch.full((2, 2), 3.0), atol=1e-2, rtol=0)
    assert torch.equal(last, encoder(frames, keep))


def test_an_image_is_embedded_by_patches_one_frame_deep(tiny):
    encoder = build_encoder(tiny, 0)
    levels = Levels(encoder, (0, 1), generator())
    image = torch.randn(2, 1, 3, 16, 16, generator=generator())
    before = levels(encoder, image)
    with torch.no_grad():
        encoder.patch_embed.proj.weight.zero_()
        assert torch.equal(levels(encoder, image)[1], before[1]) and before[1].shape == (2, 16, 32)
        encoder.patch_embed.proj.weight.copy_(levels.image_patch_embed.proj.weight.expand(-1, -1, 2, -1, -1) / 2)
    torch.testing.assert_close(encoder(image), before[1])  # which the encoder would do by showing it twice


def test_the_predictor_answers_where_it_was_asked(tiny):
    """Both heads follow the order of the ids; what is seen and what is asked for go through different ones."""
    predictor = LevelsPredictor(PredictorConfig(24, 2, 2), 32, 2, 2, build_encoder(tiny, 0).rope, generator())
    context = torch.randn(1, 3, 64, generator=generator())
    seen, hidden = torch.tensor([[4, 9, 20]]), torch.tensor([[1, 30, 7, 8]])
    masked, visible = predictor(context, seen, hidden, (2, 4, 4), 0, False)
    assert masked.shape == (1, 4, 64) and visible.shape == (1, 3, 64)
    turn, ask = torch.tensor([2, 0, 1]), torch.tensor([1, 3, 0, 2])
    turned = predictor(context[:, turn], seen[:, turn], hidden[:, ask], (2, 4, 4), 0, False)
    torch.testing.assert_close(turned[0], masked[:, ask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(turned[1], visible[:, turn], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        predictor.predictor_proj.weight.zero_()
    zeroed = predictor(context, seen, hidden, (2, 4, 4), 0, False)
    assert not zeroed[0].any() and torch.equal(zeroed[1], visible)


def test_the_predictor_is_told_whether_it_sees_an_image(tiny):
    predictor = LevelsPredictor(PredictorConfig(24, 2, 2), 32, 2, 2, build_encoder(tiny, 0).rope, generator())
    for vector in (predictor.image_embed, predictor.video_embed):
        assert vector.shape == (1, 1, 24) and 0 < vector.std() < 1e-5
    again = LevelsPredictor(PredictorConfig(24, 2, 2), 32, 2, 2, build_encoder(tiny, 0).rope, generator())
    assert torch.equal(again.video_embed, predictor.video_embed)  # no other randomness
    with torch.no_grad():
        predictor.image_embed.normal_(generator=generator())
    asked = (
        torch.randn(1, 3, 64, generator=generator()),
        torch.tensor([[4, 9, 2]]),
        torch.tensor([[1, 7]]),
        (1, 4, 4),
        0,
    )
    video, image = (predictor(*asked, kind) for kind in (False, True))
    assert not any(torch.allclose(a, b, atol=1e-3) for a, b in zip(video, image, strict=True))
