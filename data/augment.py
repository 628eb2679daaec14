"""RandAugment (Cubuk et al., 2019) for clips: every frame is changed in the same way."""

import numpy as np
import torch
from torch import Tensor


def rand_augment(frames: Tensor, rng: np.random.Generator, *, ops: int = 4, magnitude: int = 7) -> Tensor:
    """Up to `ops` random changes of colour or geometry, each with probability 1/2: (T, 3, h, w) uint8 -> the same.

    `magnitude` runs from 0 to 10. All frames get the same changes of the same strength; what a change computes from
    a picture (the mean for contrast, the histogram) it computes from each frame, as the reference does. Meant for
    frames after `cut`: before it there are many more pixels.

    Follows V-JEPA 2's `rand-m7-n4-mstd0.5-inc1` with torchvision's operations. What differs: strength does not
    vary around `magnitude` (mstd0.5); bilinear, not bicubic; the 15 operations are 14 (identity in place of inverting
    and of adding before solarizing); posterizing at 7 keeps 5 bits, not 2. New corners are grey (128) in both.

    Draws from `rng`: how many changes there are, then a seed for torch's generator, whose state is put back.
    """
    from torchvision.transforms.v2 import InterpolationMode, RandAugment

    changes = int(rng.binomial(ops, 0.5))  # which come with replacement: as if each of `ops` were kept or dropped
    augment = RandAugment(changes, magnitude, 11, interpolation=InterpolationMode.BILINEAR, fill=128)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**63)))  # torch.manual_seed would seed CUDA too
        return augment(frames)
