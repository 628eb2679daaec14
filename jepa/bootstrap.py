"""The draws of a bootstrap over groups (Efron & Tibshirani 1993, chapter 6)."""

import numpy as np
from numpy.typing import NDArray


def resamples(groups: int, draws: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """How often each of `groups` is taken in each of `draws` samples of as many, with replacement: (draws, groups).

    Drawn row after row, so that some draws and then others are those that all at once would be.
    """
    taken = generator.integers(groups, size=(draws, groups))
    taken += groups * np.arange(draws)[:, None]
    counts = np.bincount(taken.ravel(), minlength=draws * groups)
    del taken  # as large as the two others
    return counts.reshape(draws, groups).astype(np.float64)
