"""Nearest neighbours of clips by their features: what an encoder takes for alike."""

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa.probes.kinds.base import Features, channel_statistics


def neighbours(bank: Features, queries: Tensor, count: int) -> Tensor:
    """Rows (Q, n) of the clips in `bank` nearest to pooled features `queries` (Q, D), nearest first.

    By cosine, standardised over the bank: raw features share a mean that makes all cosines alike. Each is of another
    episode; n is `count`, or the number of episodes where there are fewer.
    """
    mean, std = channel_statistics(bank.values)
    cosine = F.normalize((queries - mean) / std, dim=1) @ F.normalize((bank.values - mean) / std, dim=1).T
    found = []
    for order in cosine.argsort(1, descending=True):
        firsts: dict[int, int] = {}  # episode -> its nearest clip, nearest episode first
        for row in order.tolist():
            firsts.setdefault(int(bank.episodes[row]), row)
        found.append(list(firsts.values())[:count])
    return torch.tensor(found)
