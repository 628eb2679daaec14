"""Encoded episodes: windows of all lengths are drawn alike, and memory does not grow with them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa import runs
from jepa.encoded import Episodes, read_episodes, windows


def counted(lengths: list[int]) -> Episodes:
    """Frame t of episode i is 100 i + t, and so is the action that leads on from it; a part of three, then the rest."""
    parts = []
    for own in (range(3), range(3, len(lengths))):
        frames = [100.0 * i + torch.arange(lengths[i]) for i in own]
        tokens, actions = torch.cat(frames)[:, None, None], torch.cat([f[:-1] for f in frames])[:, None]
        part = {"lengths": torch.tensor([lengths[i] for i in own]), "tokens": tokens, "actions": actions}
        parts.append(part | {"states": tokens[:, 0]})
    return Episodes(parts)


def test_every_window_of_every_episode_is_as_likely():
    data = counted([3, 7, 1, 2, 5])
    drawn = windows(data, 3, 9000, (0, 1))
    assert torch.equal(drawn.tokens[:, :, 0, 0], drawn.tokens[:, :1, 0, 0] + torch.arange(3))
    assert torch.equal(drawn.actions, drawn.states[:, :-1]) and torch.equal(drawn.states, drawn.tokens[:, :, 0])
    starts, counts = drawn.states[:, 0, 0].unique(return_counts=True)
    assert starts.tolist() == [0, 100, 101, 102, 103, 104, 400, 401, 402]
    assert (counts - 1000).abs().max() < 5 * 30  # of a deviation of 30


def test_windows_depend_on_the_key_alone():
    data = counted([3, 7, 1, 2, 5])
    whole = windows(data, 2, 8, (3, 4)).states
    parts = [windows(data, 2, 8, (3, 4), rank, 3).states for rank in range(3)]
    assert all(torch.equal(part, whole[rank::3]) for rank, part in enumerate(parts))
    assert not torch.equal(whole, windows(data, 2, 8, (3, 5)).states)


@pytest.mark.parametrize(("count", "length"), [(6, 12), (48, 25)])
def test_of_equal_lengths_episode_and_start_are_drawn_apart(count, length):
    for step in range(20):
        rng = np.random.default_rng((7, step))
        rows, starts = rng.integers(0, count, 8), rng.integers(0, length - 3 + 1, 8)
        drawn = windows(counted([length] * count), 3, 8, (7, step)).states[:, 0, 0]
        assert drawn.tolist() == (100 * rows + starts).tolist()


def test_evenly_spread_episodes_fit_into_memory():
    data = counted([3, 7, 1, 2, 5])
    rows, lengths = data.joined(18)
    assert lengths.tolist() == [3, 7, 1, 2, 5] and rows.tokens.shape == (1, 18, 1, 1) and rows.actions.shape[1] == 13
    rows, lengths = data.joined(9)
    assert lengths.tolist() == [3, 1, 5]
    assert rows.states[0, :, 0].tolist() == [0, 1, 2, 200, 400, 401, 402, 403, 404]
    assert rows.actions[0, :, 0].tolist() == [0, 1, 400, 401, 402, 403]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells how much memory is not of files")
def test_memory_does_not_grow_with_the_episodes(tmp_path):
    def used() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return sum(int(line.split()[1]) // 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))  # MB

    part = {"lengths": torch.tensor([8] * 16), "tokens": torch.zeros(128, 256, 1024, dtype=torch.float16)}  # 64 MB
    part |= {"actions": torch.zeros(112, 7), "states": torch.zeros(128, 7)}
    for i in range(3):
        runs.write_cache(tmp_path / "features" / "train" / f"{i:05d}-of-00003.safetensors", "key", part)
    del part
    before, files = used(), len(os.listdir("/proc/self/fd"))
    data = read_episodes(tmp_path, "train")
    for step in range(9):
        windows(data, 2, 2, (step,))
    assert data.window(40, 0, 8).tokens.sum() == 0
    assert used() - before < 32 and len(os.listdir("/proc/self/fd")) == files
