"""The bootstrap's draws: as many as there are groups, in any portions, with the spread of a multinomial."""

import numpy as np
import pytest

from jepa.bootstrap import resamples


@pytest.mark.parametrize("groups", [2, 7, 300])
def test_resamples(groups):
    whole = resamples(groups, 4000, np.random.default_rng(0))
    assert whole.shape == (4000, groups) and (whole.sum(1) == groups).all() and (whole >= 0).all()
    generator = np.random.default_rng(0)
    assert np.array_equal(whole, np.concatenate([resamples(groups, n, generator) for n in (1, 1999, 2000)]))
    assert whole.mean(0) == pytest.approx(np.ones(groups), abs=0.1)
    assert whole.var(0) == pytest.approx(np.full(groups, 1 - 1 / groups), rel=0.15)
