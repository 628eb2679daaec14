"""The sample order: every sample once an epoch, a function of seed and epoch alone, pinned."""

import pytest

from jepa.data.errors import DataError
from jepa.data.order import order


def ids(slots: range, *, seed: int, samples: int, batch_size: int) -> list[tuple[int, int]]:
    """(epoch, id) of global slot numbers."""
    return [order(g // batch_size, g % batch_size, seed=seed, samples=samples, batch_size=batch_size) for g in slots]


@pytest.mark.parametrize("samples", [1, 2, 7, 64])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_every_epoch_has_every_sample_once(samples: int, batch_size: int) -> None:
    for epoch in range(3):
        got = ids(range(epoch * samples, (epoch + 1) * samples), seed=5, samples=samples, batch_size=batch_size)
        assert [e for e, _ in got] == [epoch] * samples
        assert sorted(i for _, i in got) == list(range(samples))


def test_order_does_not_depend_on_batch_size_but_on_seed_and_epoch() -> None:
    small = ids(range(200), seed=1, samples=100, batch_size=4)
    assert small == ids(range(200), seed=1, samples=100, batch_size=25)
    assert small != ids(range(200), seed=2, samples=100, batch_size=4)
    assert [i for _, i in small[:100]] != [i for _, i in small[100:]]


def test_order_is_pinned() -> None:
    """A run resumed under a later version must see the same samples."""
    assert [i for _, i in ids(range(10, 20), seed=3, samples=10, batch_size=5)] == [4, 1, 2, 8, 5, 0, 7, 9, 6, 3]


def test_replacement_walks_through_the_same_epoch() -> None:
    def draw(place: int, replacement: int = 0) -> tuple[int, int]:
        return order(0, place, seed=0, samples=8, batch_size=8, replacement=replacement)

    assert draw(2, replacement=3) == draw(5)
    assert {draw(6, replacement=k)[1] for k in range(8)} == set(range(8))


def test_errors() -> None:
    with pytest.raises(DataError, match="no samples"):
        order(0, 0, seed=0, samples=0, batch_size=1)
    with pytest.raises(DataError, match="slot 4"):
        order(0, 4, seed=0, samples=9, batch_size=4)
