"""Tokens of minibatches: in order and once, a few videos at a time, and what cannot be read or computed is said."""

import json

import pytest
import torch
from accelerate import Accelerator

from jepa.data.errors import DataError
from jepa.probes.kinds.base import ProbeError
from jepa.probes.published import encode
from jepa.probes.published.encode import Tokens, only_read


def load(epoch: int, row: int):
    """A video that shows its epoch and its number; the fifth cannot be read."""
    if row == 5:
        raise DataError("is torn")
    return (torch.tensor([epoch, row], dtype=torch.float32),)


def tokens_of(tmp_path, workers=0, change=lambda values: values, calls=None):
    def values(items):
        if calls is not None:
            calls.append(len(items))
        return change(items.half())

    names = [f"v{row}" for row in range(20)]
    return Tokens(load, values, (2,), names, tmp_path / "unread.json", workers, Accelerator(cpu=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_every_row_has_its_own_tokens_whatever_the_minibatch(tmp_path, workers):
    batches = [(0, torch.arange(19)), (3, torch.tensor([7, 5, 2])), (3, torch.tensor([], dtype=torch.int64))]
    calls = []
    found = list(tokens_of(tmp_path, workers, calls=calls)(batches))
    assert [rows.tolist() for rows, _ in found] == [rows.tolist() for _, rows in batches]
    for (epoch, rows), (_, values) in zip(batches, found, strict=True):
        seen, readable = only_read(rows, values)
        assert seen.tolist() == [row for row in rows.tolist() if row != 5]
        assert readable.tolist() == [[epoch, row] for row in seen.tolist()]
    assert calls == [7, 8, 3, 2]  # no more than a few videos are encoded at a time
    assert json.loads((tmp_path / "unread.json").read_text()) == {"v5": "is torn"}


def test_a_video_that_is_read_is_not_taken_for_unread_because_its_features_are_not_finite(tmp_path):
    with pytest.raises(ProbeError, match="features are not finite"):
        list(tokens_of(tmp_path, change=lambda values: values / 0)([(0, torch.arange(4))]))


def test_ranks_hand_each_other_their_rows(tmp_path, monkeypatch):
    """Two ranks, played one after the other: what rank 1 gives is what it would have encoded."""
    monkeypatch.setattr(encode, "processes", lambda: 2)
    rows = torch.tensor([3, 1, 4, 0, 2])
    of_rank = {}
    for place in (1, 0):
        monkeypatch.setattr(encode, "rank", lambda place=place: place)
        tokens = tokens_of(tmp_path)

        def gather(part, place=place):
            of_rank.setdefault(place, []).append(part)
            other = of_rank[1][len(of_rank[0]) - 1] if place == 0 else part
            return torch.cat((part, other))

        monkeypatch.setattr(tokens.accelerator, "gather", gather)
        ((_, found),) = tokens([(0, rows)])
    assert found.tolist() == [[0, row] for row in rows.tolist()]
