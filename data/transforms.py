"""Augmentation and resizing of uint8 frames, and the one place that turns uint8 into the encoder's input."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROPS = {"centre": (1.0, 1.0), "squeeze": (0.75, 1.35)}
"""Widths over heights that the box which is cut from a robot's picture may have; it is resized to a square."""
WORTH_SHRINKING = 0.75  # of whole frames, to at most this share of a side: less would cost more than it saves


def normalize(frames: Tensor) -> Tensor:
    """uint8 (..., 3, h, w) -> float32 of the same shape with ImageNet's mean and standard deviation."""
    scale = torch.tensor([1 / (255 * s) for s in IMAGENET_STD], device=frames.device).view(3, 1, 1)
    shift = torch.tensor([m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)], device=frames.device)
    return frames.to(torch.float32, copy=True).mul_(scale).sub_(shift.view(3, 1, 1))  # in place: batches are large


def generator(seed: int, epoch: int, sample_id: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch: the same on any rank, worker or resume.

    The order of draws is part of what a seed means: `sampling.sample_frames`, `random_crop`, `rand_augment`.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, sample_id))))


@dataclass(frozen=True)
class Crop:
    """A box of an image in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    mirror: bool = False


def random_crop(
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    aspect: tuple[float, float],
    hflip: bool,
    rng: np.random.Generator,
) -> Crop:
    """A box whose share of the area is uniform in `scale` and whose width/height is log-uniform in `aspect`.

    After ten boxes that do not fit, the largest centred box with an aspect in range (Inception, as V-JEPA 2).
    Draws from `rng`: the mirror, then for each box its area and aspect, then top and left of the one that fits.
    """
    mirror = bool(rng.random() < 0.5) and hflip
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return Crop(top, left, h, w, mirror)
    return replace(centre_crop(height, width, aspect=aspect), mirror=mirror)


def centre_crop(height: int, width: int, *, aspect: tuple[float, float] = (1.0, 1.0)) -> Crop:
    """The largest centred box with a width/height in `aspect`: a square, if nothing else is said."""
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return Crop((height - h) // 2, (width - w) // 2, h, w)


def views(height: int, width: int, count: int) -> list[Crop]:
    """`count` squares at equal distances along the longer side, from edge to edge; the centred one if 1."""
    if count == 1:
        return [centre_crop(height, width)]
    side = min(height, width)
    return [
        Crop((height - side) * i // (count - 1), (width - side) * i // (count - 1), side, side) for i in range(count)
    ]


def cut(frames: Tensor, crop: Crop, size: int) -> Tensor:
    """The same box of every frame, resized to a square: (T, C, h, w) uint8 -> (T, C, size, size) uint8.

    The box is cut before it is resized: far fewer pixels are touched than the other way round. Fastest where
    `frames` is a view of (T, h, w, C), as decoders give: torch resizes such pictures in place of single channels.
    """
    box = frames[..., crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    out = resize(box, size, size).contiguous()  # before the mirror: a flip of contiguous rows costs least
    return out.flip(-1) if crop.mirror else out


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Antialiased bilinear resize, rounded to uint8: (T, C, h, w) -> (T, C, height, width)."""
    if frames.shape[-2:] == (height, width):
        return frames
    return F.interpolate(frames, (height, width), mode="bilinear", antialias=True, align_corners=False)


def shrink(frames: Tensor, short_side: int) -> Tensor:
    """Resize so that the short side is `short_side`, keeping the shape's ratio, where that shrinks by a quarter."""
    height, width = frames.shape[-2:]
    return resize(frames, *shrunk_size(height, width, short_side))


def shrunk_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """The (height, width) that `shrink` gives: the same where the short side would stay above 3/4 of what it is."""
    factor = short_side / min(height, width)
    if factor > WORTH_SHRINKING:
        return height, width
    return max(1, round(height * factor)), max(1, round(width * factor))
