"""Which sample fills which slot of which batch: a pure function, so no rank, worker or resume changes it.

A run may mix data sets by weight, and clips of several lengths. Every batch has one length, so that its shape is one:
first the step is dealt to a length (a group of data sets), then each slot of the batch to a data set of that group,
then the slot takes the next sample of that data set's own endless stream of permutations. Dealing goes by hands of
`HAND` cards: each hand has every weight's exact share of cards, shuffled, so that how often a data set was drawn before
any step is arithmetic.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from jepa.data.errors import DataError

HAND = 1024
TABLE = 1 << 16  # permutations of up to this many samples are stored; longer ones would cost every process memory
ROUNDS = 6
MASK = (1 << 64) - 1


class Draw(NamedTuple):
    """One sample: of which data set, in which pass over it, and its number there."""

    part: int
    epoch: int
    sample: int


@dataclass(frozen=True)
class Mixture:
    """What is mixed: for each data set its number of samples, its weight, and its group.

    Data sets of one group share batches. A weight is rounded to 1/1024 of its group's total, a group's to 1/1024 of
    the run's.

    Raises:
        DataError: nothing to draw from, or a weight is not positive or too small to be drawn.
    """

    samples: tuple[int, ...]
    batch_size: int
    seed: int
    weights: tuple[float, ...] = (1.0,)
    groups: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if not self.samples or min(self.samples) < 1:
            raise DataError("there are no samples to draw from")
        if not len(self.samples) == len(self.weights) == len(self.groups):
            raise DataError(f"{len(self.samples)} data sets need as many weights and groups")
        if not all(0 < weight < math.inf for weight in self.weights):
            raise DataError(f"weights {list(self.weights)}: each must be positive; leave a data set out instead")
        for group in set(self.groups):
            _shares(tuple(w for w, g in zip(self.weights, self.groups, strict=True) if g == group))
        group_of(self, 0)


def order(mixture: Mixture, step: int, slot: int, *, replacement: int = 0) -> Draw:
    """What fills `slot` (0..batch_size-1) of the global batch of `step`.

    Every epoch of a data set is a fresh permutation of all its samples; batches run on across its end, so that every
    epoch has every sample once. `replacement=k` names the k-th stand-in for an unreadable sample: the k-th next one
    of the same permutation.

    Raises:
        DataError: `step` or `slot` lies outside its range.
    """
    if step < 0 or not 0 <= slot < mixture.batch_size:
        raise DataError(f"step {step}, slot {slot}: no such place in batches of {mixture.batch_size}")
    group, steps_before = group_of(mixture, step)
    parts = tuple(i for i, g in enumerate(mixture.groups) if g == group)
    weights = tuple(mixture.weights[i] for i in parts)
    which, before = _deal(steps_before * mixture.batch_size + slot, weights, mixture.seed, 1 + group)
    part = parts[which]
    samples = mixture.samples[part]
    epoch, place = divmod(before, samples)
    return Draw(part, epoch, permuted((place + replacement) % samples, samples, mixture.seed, epoch, part))


def group_of(mixture: Mixture, step: int) -> tuple[int, int]:
    """The group whose batch `step` is, and how many steps that group had before."""
    groups = sorted(set(mixture.groups))
    weights = tuple(sum(w for w, g in zip(mixture.weights, mixture.groups, strict=True) if g == x) for x in groups)
    which, before = _deal(step, weights, mixture.seed, 0)
    return groups[which], before


def permuted(i: int, samples: int, seed: int, epoch: int, part: int = 0) -> int:
    """Element `i` of the permutation of range(samples) that belongs to (seed, epoch, part)."""
    if samples <= TABLE:
        return int(_table(seed, epoch, part, samples)[i])
    bits = (samples - 1).bit_length()
    keys = _keys(seed, epoch, part)
    while True:  # walks at most a few times: fewer than half of the numbers of `bits` bits lie outside
        i = _feistel(i, bits, keys)
        if i < samples:
            return i


def _feistel(i: int, bits: int, keys: tuple[int, ...]) -> int:
    """A permutation of the numbers of `bits` bits without a table (Luby and Rackoff 1988, unbalanced halves)."""
    low = bits // 2
    high = bits - low
    for key in keys:
        left, right = i >> low, i & ((1 << low) - 1)
        x = ((right ^ key) * 0x9E3779B97F4A7C15) & MASK
        x = ((x ^ (x >> 32)) * 0xD6E8FEB86659FD93) & MASK
        i = (right << high) | (left ^ ((x >> 32) & ((1 << high) - 1)))  # the halves change places,
        low, high = high, low  # and widths
    return i


def _deal(n: int, weights: tuple[float, ...], seed: int, stream: int) -> tuple[int, int]:
    """Which of the weights card `n` of a stream goes to, and how many cards it got before."""
    if len(weights) == 1:
        return 0, n
    hand, place = divmod(n, HAND)
    cards, before = _hand(weights, seed, stream, hand)
    which = int(cards[place])
    return which, hand * _shares(weights)[which] + int(before[place])


@lru_cache(maxsize=64)
def _shares(weights: tuple[float, ...]) -> tuple[int, ...]:
    """How many of `HAND` cards each weight gets; what rounding leaves goes to the largest remainders."""
    exact = np.array(weights) / sum(weights) * HAND
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: HAND - shares.sum()]] += 1
    if not shares.all():
        raise DataError(f"weights {list(weights)}: the smallest is less than 1/{HAND} of the whole and is never drawn")
    return tuple(shares.tolist())


@lru_cache(maxsize=256)
def _hand(weights: tuple[float, ...], seed: int, stream: int, hand: int) -> tuple[np.ndarray, np.ndarray]:
    """The cards of a hand, and for each how many of its kind came before it."""
    cards = np.repeat(np.arange(len(weights)), _shares(weights))
    cards = _generator(seed, hand, stream).permutation(cards)
    counts = np.cumsum(cards[:, None] == np.arange(len(weights)), axis=0)
    return cards, np.take_along_axis(counts, cards[:, None], axis=1)[:, 0] - 1


@lru_cache(maxsize=64)
def _table(seed: int, epoch: int, part: int, samples: int) -> np.ndarray:
    return _generator(seed, epoch, part).permutation(np.arange(samples, dtype=np.uint32))


@lru_cache(maxsize=1024)
def _keys(seed: int, epoch: int, part: int) -> tuple[int, ...]:
    return tuple(_generator(seed, epoch, part).integers(0, 1 << 63, ROUNDS).tolist())


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
