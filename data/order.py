"""Which sample fills which slot of which batch: a pure function, so no rank, worker or resume changes it."""

from functools import lru_cache

import numpy as np

from jepa.data.errors import DataError


def order(step: int, slot: int, *, seed: int, samples: int, batch_size: int, replacement: int = 0) -> tuple[int, int]:
    """The (epoch, sample id) of `slot` (0..batch_size-1) in the global batch of `step`.

    Every epoch is a fresh permutation of all samples; batches run on across the epoch's end, so that every
    epoch sees every sample once. `replacement=k` names the k-th stand-in for an unreadable sample: the
    k-th next one of the same permutation.

    Raises:
        DataError: there are no samples, or `step` or `slot` lies outside its range.
    """
    if samples < 1:
        raise DataError("there are no samples to draw from")
    if step < 0 or not 0 <= slot < batch_size:
        raise DataError(f"step {step}, slot {slot}: no such place in batches of {batch_size}")
    epoch, place = divmod(step * batch_size + slot, samples)
    return epoch, int(_permutation(seed, epoch, samples)[(place + replacement) % samples])


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, samples: int) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch))))
    return generator.permutation(np.arange(samples, dtype=np.uint32))
