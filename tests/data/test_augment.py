"""RandAugment of clips: one change for all frames, random numbers from the given generator only."""

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa.data.augment import rand_augment


@pytest.fixture
def frames() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8, generator=generator)
    return torch.nn.functional.interpolate(small, (24, 36), mode="bilinear")  # smooth: colour and place both matter


def augmented(frames: Tensor, seed: int, **options: int) -> Tensor:
    return rand_augment(frames, np.random.default_rng(seed), **options)


def test_every_frame_gets_the_same_changes(frames: Tensor) -> None:
    """As a clip or one by one: the changes depend on the generator alone."""
    for seed in range(30):
        together = augmented(frames, seed)
        assert together.shape == frames.shape and together.dtype == torch.uint8
        alone = torch.cat([augmented(frames[t : t + 1], seed) for t in range(len(frames))])
        assert (together.int() - alone.int()).abs().max() <= 1  # rounding of contrast


def test_the_generator_decides_and_global_random_numbers_stay(frames: Tensor) -> None:
    before, numpy_before, pixels = torch.get_rng_state(), np.random.get_state()[1].tolist(), frames.clone()
    made = [augmented(frames, seed) for seed in range(40)]
    assert torch.equal(torch.get_rng_state(), before) and np.random.get_state()[1].tolist() == numpy_before
    assert torch.equal(frames, pixels)
    torch.manual_seed(1)
    assert all(torch.equal(augmented(frames, seed), made[seed]) for seed in range(40))
    assert len({tuple(out.flatten().tolist()) for out in made}) > 25
    rng = np.random.default_rng(0)
    assert not torch.equal(rand_augment(frames, rng), rand_augment(frames, rng))


def test_each_change_happens_half_of_the_time(frames: Tensor) -> None:
    """Out of one change, which is the identity once in 14 times, 0.5 * 13/14 of the clips are different."""
    changed = sum(not torch.equal(augmented(frames, seed, ops=1), frames) for seed in range(400)) / 400
    assert 0.38 < changed < 0.54
    assert torch.equal(augmented(frames, 0, ops=0), frames)


def test_magnitude_is_in_tenths_and_corners_are_grey(frames: Tensor) -> None:
    """On constant white only places outside the picture and darker colours differ; 3 degrees, 30 at most."""
    white = torch.full((1, 3, 40, 40), 255, dtype=torch.uint8)
    grey = {m: max(_share(augmented(white, s, ops=2, magnitude=m), 128) for s in range(80)) for m in (0, 2, 9)}
    assert grey[0] == 0 < grey[2] < grey[9]
    with pytest.raises(IndexError):
        for seed in range(20):
            augmented(frames, seed, magnitude=11)


def _share(frames: Tensor, value: int) -> float:
    return (frames == value).float().mean().item()
