"""Clips of the published protocols: segments of a video in several views for tests, augmented for training."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jepa.data import transforms
from jepa.data.augment import rand_augment
from jepa.data.decode import decode
from jepa.data.sampling import sample_clips
from jepa.interop.processor import evaluation_frames
from jepa.probes.published.footage import Footage, stills

SCALE, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of training crops
ERASED, ERASED_AREA, ERASED_ASPECT = 0.25, (0.02, 1 / 3), (0.3, 1 / 0.3)  # random erasing (Zhong et al., 2020)


@dataclass(frozen=True)
class Views:
    """How a video is shown: `segments` clips of `frames` frames at `size` px; in tests each in `views` squares.

    Frames lie `frame_step` apart, or, where that is 0, as far as `fps` a second says. `augment` is paper or none,
    `hflip` mirrors half of the training videos.
    """

    size: int = 256
    frames: int = 16
    frame_step: int = 4
    fps: float = 0.0
    segments: int = 1
    views: int = 1
    augment: str = "paper"
    hflip: bool = False


def frame_ids(footage: Footage, shown: Views, rng: np.random.Generator | None) -> np.ndarray:
    """Frame numbers (segments, T) in the file: a clip from each of equal parts, at a place of `rng`'s, or of none's.

    An image, a video of one frame, is repeated. Draws from `rng` as `sample_clips` does.
    """
    # A video of `frame_step` frames a second that is asked for one a second: the step then is exact.
    rate, fps = (float(shown.frame_step), 1.0) if shown.frame_step else (footage.fps, shown.fps)
    ids, _ = sample_clips(
        footage.frames,
        rate,
        clips=shown.segments,
        frames=shown.frames,
        fps=fps,
        overlap=True,
        rng=rng,
        times=None if shown.frame_step else footage.times,
    )
    return ids + footage.first


def evaluation_clips(footage: Footage, shown: Views) -> Tensor:
    """What a test sees of a video, the same every time: (views, segments, T, 3, size, size) uint8.

    One view is the centre of a picture whose short side is int(size·256/224); several are squares of the whole short
    side at equal distances along the long one.

    Raises:
        DataError: the video cannot be read.
    """
    ids = frame_ids(footage, shown, None)
    frames = _read(footage, ids)  # (segments·T, 3, h, w)
    if shown.views == 1:
        seen = [evaluation_frames(frames, shown.size)]
    else:
        boxes = transforms.views(*frames.shape[-2:], shown.views)
        seen = [transforms.cut(frames, box, shown.size) for box in boxes]
    return torch.stack(seen).unflatten(1, ids.shape)


def training_clips(footage: Footage, shown: Views, rng: np.random.Generator) -> Tensor:
    """What training sees of a video in one epoch: (1, segments, T, 3, size, size) uint8.

    With `augment` none it is the middle one of the test's views, and nothing is drawn. Else each segment is cropped,
    changed in colour and shape, and in part erased, on its own, all of its frames alike. Draws from `rng`: the places
    of all segments, whether they are mirrored, then for each segment as `random_crop`, `rand_augment`, `erase`.

    Raises:
        DataError: the video cannot be read.
    """
    if shown.augment == "none":
        return evaluation_clips(footage, shown)[shown.views // 2][None]
    ids = frame_ids(footage, shown, rng)
    frames = _read(footage, ids).unflatten(0, ids.shape)
    mirror = shown.hflip and bool(rng.random() < 0.5)
    clips = []
    for segment in frames:
        box = transforms.random_crop(*segment.shape[-2:], scale=SCALE, aspect=ASPECT, hflip=False, rng=rng)
        clips.append(erase(rand_augment(transforms.cut(segment, box, shown.size), rng), rng))
    out = torch.stack(clips)[None]
    return out.flip(-1) if mirror else out


def erase(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """With probability 1/4 the same box of all frames filled with noise: (T, 3, h, w) uint8 -> the same.

    The reference puts unit normal noise into normalised frames; here it is that noise as pixels, so that bytes, and
    not floats, come out of the workers; of its values 1 in 20 is cut off at black or white.

    Draws from `rng`: whether; then for each of up to ten boxes its area and aspect; top, left and the noise.
    """
    if rng.random() >= ERASED:
        return frames
    height, width = frames.shape[-2:]
    for _ in range(10):
        area = height * width * rng.uniform(*ERASED_AREA)
        aspect = math.exp(rng.uniform(*np.log(ERASED_ASPECT)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < h < height and 0 < w < width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            noise = torch.from_numpy(rng.standard_normal((len(frames), 3, h, w), np.float32))
            mean, std = (torch.tensor(x).view(3, 1, 1) for x in (transforms.IMAGENET_MEAN, transforms.IMAGENET_STD))
            out = frames.clone()
            out[..., top : top + h, left : left + w] = (255 * (noise * std + mean)).round().clamp(0, 255).byte()
            return out
    return frames


def _read(footage: Footage, ids: np.ndarray) -> Tensor:
    """Frames (segments·T, 3, h, w) uint8, a view of (…, h, w, 3); each frame of the file is decoded once."""
    needed, places = np.unique(ids, return_inverse=True)
    path = Path(footage.path)
    if path.is_dir():
        files = stills(path)
        pixels = np.concatenate([decode(files[i].read_bytes()) for i in needed])
    else:
        pixels = decode(path.read_bytes(), needed.tolist())
    return torch.from_numpy(pixels)[torch.from_numpy(places.ravel())].permute(0, 3, 1, 2)
