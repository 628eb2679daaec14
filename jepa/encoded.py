"""Robot episodes as frozen features on disk: windows of them, of any length, in memory only as they are read."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from jepa.checkpoint import CheckpointError
from jepa.worlds.base import Sequence

Part = dict[str, Tensor]
"""Episodes end to end: `lengths` (e) in frames, `tokens` (F, N, D), `actions` (F - e, A), `states` (F, S)."""


class Episodes:
    """E encoded episodes of any length, in the order of their samples; `lengths` (E) in frames.

    Parts that were read from files are memory maps: what nobody looks at takes no memory.
    """

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.lengths = torch.cat([part["lengths"] for part in parts]).numpy()
        self._part = np.repeat(np.arange(len(parts)), [len(part["lengths"]) for part in parts])
        self._rank = np.concatenate([np.arange(len(part["lengths"])) for part in parts])  # in its part
        self._first = torch.cat([part["lengths"].cumsum(0) - part["lengths"] for part in parts]).numpy()  # frame there

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def widths(self) -> tuple[int, int]:
        """How many numbers an action has, and a state."""
        return self.parts[0]["actions"].shape[1], self.parts[0]["states"].shape[1]

    def window(self, episode: int, start: int, frames: int) -> Sequence:
        """`frames` frames of an episode and the actions between them: views, of shape (1, frames, …)."""
        part, a = self.parts[self._part[episode]], self._first[episode] + start
        b = a + frames
        actions = part["actions"][a - self._rank[episode] : b - self._rank[episode] - 1]
        return Sequence(part["tokens"][None, a:b], actions[None], part["states"][None, a:b])

    def batch(self, places: Iterable[tuple[int, int]], frames: int) -> Sequence:
        """The windows that start at these (episode, frame), with tokens in fp32."""
        found = [self.window(episode, start, frames) for episode, start in places]
        tokens, actions, states = (torch.cat([getattr(w, n) for w in found]) for n in ("tokens", "actions", "states"))
        return Sequence(tokens.float(), actions, states)

    def joined(self, numbers: int) -> tuple[Sequence, Tensor]:
        """Every k-th episode, end to end as one row (1, F, …), and their lengths; all of them where memory allows.

        Args:
            numbers: so many of tokens, about, may be in memory; it decides on k.
        """
        k = -(-sum(part["tokens"].numel() for part in self.parts) // numbers)
        rows = [self.window(i, 0, self.lengths[i]) for i in range(0, len(self), k)]
        parts = (torch.cat([getattr(row, name) for row in rows], 1) for name in ("tokens", "actions", "states"))
        return Sequence(*parts), torch.from_numpy(self.lengths[::k])


def windows(data: Episodes, frames: int, batch: int, key: tuple[int, ...], rank: int = 0, world: int = 1) -> Sequence:
    """This rank's share of a batch of random windows of `frames` frames; a pure function of `key`.

    Every window of every episode is as likely as any other.
    """
    rng = np.random.default_rng(key)
    counts = np.maximum(data.lengths - frames + 1, 0)
    tickets = np.cumsum(counts // np.gcd.reduce(counts))  # one an episode where all are as long
    rows = np.searchsorted(tickets, rng.integers(0, tickets[-1], batch), side="right")
    starts = rng.integers(0, counts[rows])
    return data.batch(list(zip(rows, starts, strict=True))[rank::world], frames)


def read_episodes(run: str | Path, split: str) -> Episodes:
    """What a post-training encoded, of `train` or `heldout`. Raises CheckpointError where it is gone, or not whole."""
    folder = Path(run) / "features" / split
    paths = sorted(folder.glob("*.safetensors"))
    try:
        if paths and [path.name for path in paths] == file_names(len(paths)):
            return Episodes([load_file(path) for path in paths])
    except (OSError, SafetensorError):
        pass
    raise CheckpointError(f"{folder} is missing or not whole: run `jepa posttrain` again with out={run} to fill it")


def file_names(count: int) -> list[str]:
    """Of the files of one split: they say how many there must be."""
    return [f"{i:05d}-of-{count:05d}.safetensors" for i in range(count)]
