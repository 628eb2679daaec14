"""The sample order: every sample once an epoch, weights kept, a function of step, seed and epoch alone, pinned."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

import jepa.data.order as module
from jepa.data.errors import DataError
from jepa.data.order import HAND, Draw, Mixture, group_of, order, permuted


def draws(mixture: Mixture, places: range, **more: int) -> list[Draw]:
    """What fills the global slots `places`."""
    return [order(mixture, *divmod(place, mixture.batch_size), **more) for place in places]


def one(samples: int, batch_size: int = 4, seed: int = 1) -> Mixture:
    return Mixture((samples,), batch_size, seed)


@pytest.mark.parametrize("samples", [1, 2, 7, 64])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_every_epoch_has_every_sample_once(samples: int, batch_size: int) -> None:
    for epoch in range(3):
        got = draws(one(samples, batch_size), range(epoch * samples, (epoch + 1) * samples))
        assert [draw.epoch for draw in got] == [epoch] * samples
        assert sorted(draw.sample for draw in got) == list(range(samples))


def test_order_does_not_depend_on_batch_size_but_on_seed_and_epoch() -> None:
    small = draws(one(100, 4), range(200))
    assert small == draws(one(100, 25), range(200))
    assert small != draws(one(100, 4, seed=2), range(200))
    assert [d.sample for d in small[:100]] != [d.sample for d in small[100:]]


def test_order_is_pinned() -> None:
    """A run resumed under a later version must see the same samples."""
    assert [d.sample for d in draws(one(10, 5, seed=3), range(10, 20))] == [4, 1, 2, 8, 5, 0, 7, 9, 6, 3]
    assert [permuted(i, 5_000_000, 3, 1) for i in range(4)] == [1393977, 720361, 3648443, 865435]
    mixed = Mixture((50, 20, 9), 2, 3, (2.0, 1.0, 1.0), (16, 16, 64))
    assert [(d.part, d.sample) for d in draws(mixed, range(8))] == [
        (0, 2),
        (0, 11),
        (0, 17),
        (1, 16),
        (0, 28),
        (0, 32),
        (0, 23),
        (0, 30),
    ]


@pytest.mark.parametrize("samples", [2, 3, 10, 100, 1023, 1025, 4097])
def test_permutations_without_a_table_have_everything_once(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TABLE", 0)
    first, second = ([permuted(i, samples, 5, epoch) for i in range(samples)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(samples))
    assert samples < 10 or first != second


def test_permutations_without_a_table_look_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TABLE", 0)
    n = 20_000
    p = np.array([permuted(i, n, 0, 0) for i in range(n)])
    assert abs(np.corrcoef(p, np.arange(n))[0, 1]) < 0.03  # 1 / sqrt(n) is 0.007
    assert abs(np.corrcoef(p[:-1], p[1:])[0, 1]) < 0.03
    near = (np.abs(np.diff(p)) <= 100).mean() * n / 200  # neighbours: 1 in a random order
    assert 0.7 < near < 1.3


def test_weights_are_kept_and_epochs_are_each_data_sets_own() -> None:
    mixture = Mixture((40, 10, 30), 8, 0, (5.0, 1.0, 2.0), (16, 16, 16))
    got = draws(mixture, range(2 * HAND))
    assert Counter(d.part for d in got) == {0: 1280, 1: 256, 2: 512}
    for part, samples in enumerate(mixture.samples):
        own = [d for d in got if d.part == part]
        for epoch in range(len(own) // samples):
            piece = own[epoch * samples : (epoch + 1) * samples]
            assert {d.epoch for d in piece} == {epoch} and sorted(d.sample for d in piece) == list(range(samples))
    assert max(np.diff([i for i, d in enumerate(got) if d.part == 1])) < 60  # spread, not in runs


def test_every_batch_has_one_length() -> None:
    mixture = Mixture((40, 10, 30, 5), 8, 0, (5.0, 1.0, 2.0, 2.0), (16, 64, 16, 64))
    lengths = []
    for step in range(HAND):
        parts = {order(mixture, step, slot).part for slot in range(8)}
        groups = {mixture.groups[part] for part in parts}
        assert groups == {group_of(mixture, step)[0]}
        lengths += groups
    assert Counter(lengths) == {16: 717, 64: 307}  # 7 : 3


def global_batches(mixture: Mixture, world: int, steps: range) -> Iterator[list[Draw]]:
    own = mixture.batch_size // world
    for step in steps:
        yield [order(mixture, step, rank * own + k) for rank in range(world) for k in range(own)]


@pytest.mark.parametrize("case", range(60))
def test_any_world_size_and_resume_step_gives_the_same_batches(case: int) -> None:
    rng = np.random.default_rng(case)
    parts = int(rng.integers(1, 5))
    mixture = Mixture(
        tuple(rng.integers(1, 200, parts).tolist()),
        int(rng.choice([6, 24, 840])),
        int(rng.integers(1000)),
        tuple(rng.uniform(0.1, 9, parts).tolist()),
        tuple(rng.choice([8, 16], parts).tolist()),
    )
    world = int(rng.choice([w for w in range(1, 9) if mixture.batch_size % w == 0]))
    start = int(rng.integers(0, 5))
    whole = list(global_batches(mixture, 1, range(6)))
    assert list(global_batches(mixture, world, range(start, 6))) == whole[start:]


def test_a_step_far_away_costs_no_more() -> None:
    """O(1) resume: nothing is counted up to the step."""
    mixture = Mixture((20_000_000, 1_000_000), 1024, 0, (3.0, 1.0), (16, 16))
    far = order(mixture, 10**12, 5)
    assert far.epoch > 10**6 and 0 <= far.sample < 20_000_000


def test_replacement_walks_through_the_same_epoch() -> None:
    mixture = one(8, 8, seed=0)

    def draw(place: int, replacement: int = 0) -> Draw:
        return order(mixture, 0, place, replacement=replacement)

    assert draw(2, replacement=3) == draw(5)
    assert {draw(6, replacement=k).sample for k in range(8)} == set(range(8))


def test_errors() -> None:
    with pytest.raises(DataError, match="no samples"):
        one(0)
    with pytest.raises(DataError, match="slot 4"):
        order(one(9), 0, 4)
    with pytest.raises(DataError, match="each must be positive"):
        Mixture((3, 3), 1, 0, (1.0, 0.0), (1, 1))
    for groups in ((1, 1), (1, 2)):
        with pytest.raises(DataError, match="is never drawn"):
            Mixture((3, 3), 1, 0, (1.0, 1e-5), groups)
    with pytest.raises(DataError, match="each must be positive"):
        Mixture((3, 3), 1, 0, (1.0, float("nan")), (1, 1))
