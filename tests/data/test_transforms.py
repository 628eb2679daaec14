"""Transforms: ImageNet statistics, crops inside the image, and random numbers by seed, epoch and sample."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jepa.data import transforms
from jepa.data.transforms import Crop


def test_normalize_gives_imagenet_statistics() -> None:
    frames = torch.randint(0, 256, (2, 3, 3, 5, 5), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (frames / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(transforms.normalize(frames), expected)


def test_whole_square_crop_is_the_identity() -> None:
    frames = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    rng = transforms.generator(0, 0, 0)
    crop = transforms.random_crop(32, 32, scale=(1, 1), aspect=(1, 1), hflip=False, rng=rng)
    assert crop == Crop(0, 0, 32, 32)
    assert torch.equal(transforms.cut(frames, crop, 32), frames)


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (64, 64), (7, 300)])
def test_random_crops_lie_inside_and_have_the_wanted_area_and_shape(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    areas, mirrored = [], 0
    for _ in range(300):
        c = transforms.random_crop(height, width, scale=(0.3, 1.0), aspect=(0.75, 1.35), hflip=True, rng=rng)
        assert 0 <= c.top <= height - c.height and 0 <= c.left <= width - c.width
        assert 0.7 < c.width / c.height < 1.45
        areas.append(c.height * c.width / (height * width))
        mirrored += c.mirror
    assert 110 < mirrored < 190
    if height == width:
        assert min(areas) < 0.35 and max(areas) > 0.9 and 0.55 < np.mean(areas) < 0.72


def test_impossible_crop_falls_back_to_the_centre() -> None:
    """V-JEPA 2-AC's crop of DROID frames: rows 0:720, columns 154:1126."""
    rng = np.random.default_rng(0)
    crop = transforms.random_crop(720, 1280, scale=(1.777, 1.777), aspect=(0.75, 1.35), hflip=False, rng=rng)
    assert crop == Crop(0, 154, 720, 972) == transforms.centre_crop(720, 1280, aspect=transforms.CROPS["squeeze"])


def test_random_numbers_depend_on_seed_epoch_and_sample() -> None:
    draws = {(s, e, i): transforms.generator(s, e, i).random() for s in range(3) for e in range(3) for i in range(3)}
    assert len(set(draws.values())) == 27
    assert transforms.generator(1, 2, 0).random() == draws[1, 2, 0]


def test_cut_mirrors_and_picks_the_box() -> None:
    frames = torch.arange(6 * 8, dtype=torch.uint8).view(1, 1, 6, 8).expand(2, 3, 6, 8)
    box = transforms.cut(frames, Crop(1, 2, 4, 4), 4)
    assert torch.equal(box, frames[..., 1:5, 2:6])
    assert torch.equal(transforms.cut(frames, Crop(1, 2, 4, 4, mirror=True), 4), box.flip(-1))


def test_resize_is_close_to_the_float_path() -> None:
    frames = torch.randint(0, 256, (3, 3, 50, 70), dtype=torch.uint8)
    exact = torch.nn.functional.interpolate(frames.float(), (32, 32), mode="bilinear", antialias=True)
    assert (transforms.resize(frames, 32, 32).float() - exact).abs().max() < 1.6


def test_shrink_keeps_the_ratio_and_never_enlarges() -> None:
    assert transforms.shrink(torch.zeros(1, 3, 60, 80, dtype=torch.uint8), 30).shape == (1, 3, 30, 40)
    assert transforms.shrunk_size(60, 80, 100) == (60, 80)
    assert transforms.centre_crop(60, 80) == Crop(0, 10, 60, 60)
    assert transforms.centre_crop(60, 80, aspect=transforms.CROPS["squeeze"]) == Crop(0, 0, 60, 80)
    assert transforms.centre_crop(80, 50, aspect=transforms.CROPS["squeeze"]) == Crop(6, 0, 67, 50)


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (64, 64)])
def test_views_are_squares_from_edge_to_edge(height: int, width: int) -> None:
    side, spare = min(height, width), abs(height - width)
    assert transforms.views(height, width, 1) == [transforms.centre_crop(height, width)]
    first, middle, last = transforms.views(height, width, 3)
    assert middle == transforms.centre_crop(height, width)
    assert first == Crop(0, 0, side, side)
    assert last == Crop(height - side, width - side, side, side) and last.top + last.left == spare


@pytest.mark.parametrize("crop", [Crop(3, 5, 40, 44), Crop(3, 5, 40, 44, True), Crop(0, 0, 16, 15), Crop(2, 0, 32, 32)])
def test_cut_is_the_plain_crop_resize_and_mirror_in_any_memory_layout(crop: Crop) -> None:
    frames = torch.randint(0, 256, (4, 48, 52, 3), dtype=torch.uint8).permute(0, 3, 1, 2)  # as decoded
    before = frames.clone()
    plain = []
    for frame in frames:
        box = frame[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width].contiguous()[None]
        small = torch.nn.functional.interpolate(box, (32, 32), mode="bilinear", antialias=True)[0]
        plain.append(small.flip(-1) if crop.mirror else small)
    out = transforms.cut(frames, crop, 32)
    assert torch.equal(out, torch.stack(plain)) and torch.equal(frames, before)
    assert torch.equal(transforms.cut(frames.contiguous(), crop, 32), out)
    assert out.is_contiguous()


def test_random_crop_draws_in_the_stated_order() -> None:
    rng, other = np.random.default_rng(3), np.random.default_rng(3)
    crop = transforms.random_crop(50, 50, scale=(0.2, 0.4), aspect=(1, 1), hflip=True, rng=rng)
    mirror, area, _ = other.random() < 0.5, 2500 * other.uniform(0.2, 0.4), other.uniform(0, 0)
    side = round(area**0.5)
    assert crop == Crop(int(other.integers(51 - side)), int(other.integers(51 - side)), side, side, mirror)
    assert rng.bit_generator.state == other.bit_generator.state
    plain = transforms.random_crop(50, 50, scale=(0.2, 0.4), aspect=(1, 1), hflip=False, rng=np.random.default_rng(3))
    assert plain == replace(crop, mirror=False)  # the same box with and without mirroring


def test_random_crops_have_log_uniform_aspects() -> None:
    rng = np.random.default_rng(0)
    given = {"scale": (0.1, 0.1), "aspect": (0.25, 4), "hflip": False, "rng": rng}
    crops = [transforms.random_crop(400, 400, **given) for _ in range(500)]
    octaves = np.log2([c.width / c.height for c in crops])  # uniform in -2 … 2
    assert np.abs(np.histogram(octaves, 4, (-2.02, 2.02))[0] / 500 - 0.25).max() < 0.06
