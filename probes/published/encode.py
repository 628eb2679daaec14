"""Tokens of a benchmark's videos, minibatch by minibatch: loaded by workers, encoded by all ranks, or kept on disk."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, tee
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jepa.data.errors import DataError
from jepa.data.transforms import normalize
from jepa.engines.base import processes, rank
from jepa.models.encoder import Encoder
from jepa.models.image_encoder import ImageEncoder
from jepa.probes.features import BATCH
from jepa.probes.kinds.base import ProbeError
from jepa.probes.store import Store, open_store
from jepa.status import write_json
from jepa.training import first_alone

ON_DEVICE = 2**33
"""Bytes of a minibatch's tokens that stay on a GPU. Those of more lie in the host's memory: heads take slices."""

Batch = tuple[int, Tensor]
"""An epoch, and the rows (B) of it that make a minibatch."""

Load = Callable[[int, int], tuple[Tensor, ...]]
"""(epoch, row) -> what the encoder needs of a video; raises DataError where it cannot be read."""


@torch.no_grad()
def encode_views(encoder: Encoder | ImageEncoder, levels: tuple[int, ...], clips: Tensor) -> Tensor:
    """uint8 clips (B, V, S, T, 3, h, w) -> tokens (B, V, L·S·K, D) float16, where the encoder is.

    Each clip is encoded alone, by bf16 autocast on a GPU. All tokens of level one come first, in them all of segment
    one, in these the clip's own order in time: (level, segment, time step, place).
    """
    device = next(encoder.parameters()).device
    parts = []
    for chunk in clips.flatten(0, 2).split(BATCH):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            frames = normalize(chunk.to(device))
            out = encoder(frames, layers=levels) if levels else [encoder(frames)]
        parts.append(torch.stack([tokens.half() for tokens in out], dim=1))  # of a LayerNorm: half loses nothing
    return rearrange(torch.cat(parts), "(b v s) l k d -> b v (l s k) d", b=clips.shape[0], v=clips.shape[1])


class Tokens:
    """Tokens of any rows of a data set: every rank loads and encodes its share of a minibatch and gets all of it.

    `load` is called in worker processes, `encode` here with the stacks of what it gave for a few rows; it returns
    (B, *shape) float16. A row that cannot be read is NaN, and stands in the JSON file `ledger` (one of each rank) with
    the reason, under its name in `names`.
    """

    def __init__(
        self,
        load: Load,
        encode: Callable[..., Tensor],
        shape: tuple[int, ...],
        names: list[str],
        ledger: Path,
        workers: int,
        accelerator: Accelerator,
    ) -> None:
        self.load, self.encode, self.shape, self.workers, self.accelerator = load, encode, shape, workers, accelerator
        self.names, self.ledger = names, ledger
        self._unread: dict[str, str] = json.loads(ledger.read_text()) if ledger.is_file() else {}

    def own(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows, tokens (B, *shape)) of minibatches that only this process asks for."""
        first, again = tee(batches)
        loader: Any = DataLoader(
            _Items(self.load),
            sampler=((epoch, int(row)) for epoch, rows in first for row in rows),
            batch_size=None,  # one video at a time: a minibatch of clips in each worker would be gigabytes
            num_workers=self.workers,
            generator=torch.Generator(),  # not the global one
        )
        items = iter(loader)
        for _, rows in again:
            yield rows, self._encoded(rows, items)

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows, tokens (B, *shape)) of each minibatch, the same on all ranks, which call this together."""
        place, world = rank(), processes()
        first, again = tee(batches)
        shares = self.own((epoch, rows[place::world]) for epoch, rows in first)
        for (_, rows), (_, tokens) in zip(again, shares, strict=True):
            yield rows, self._gathered(tokens, len(rows), world) if world > 1 else tokens

    def _gathered(self, tokens: Tensor, rows: int, world: int) -> Tensor:
        """All `rows` of a minibatch, of which rank r has the rows r, r + world, …; a few at a time."""
        most, device = -(-rows // world), self.accelerator.device
        if len(tokens) < most:
            tokens = torch.cat((tokens, tokens.new_zeros(most - len(tokens), *self.shape)))
        found = torch.empty(most, world, *self.shape, dtype=tokens.dtype, device=self._home(rows))
        for part, into in zip(tokens.split(BATCH), found.split(BATCH), strict=True):
            into.copy_(self.accelerator.gather(part.to(device)).unflatten(0, (world, len(part))).transpose(0, 1))
        return found.flatten(0, 1)[:rows]

    def _encoded(self, rows: Tensor, items: Iterator[Any]) -> Tensor:
        """The next items of the loader, those of `rows`, encoded a few at a time."""
        tokens = torch.full((len(rows), *self.shape), torch.nan, dtype=torch.float16, device=self._home(len(rows)))
        failed = {}
        for start in range(0, len(rows), BATCH):
            part = list(islice(items, min(BATCH, len(rows) - start)))
            read = [i for i, item in enumerate(part) if not isinstance(item, str)]
            if read:
                values = self.encode(*map(torch.stack, zip(*(part[i] for i in read), strict=True)))
                if not values.isfinite().all():  # NaN stands for a video that cannot be read, and for nothing else
                    raise ProbeError("an encoder's features are not finite; look at its weights and precision")
                tokens[[start + i for i in read]] = values.to(tokens.device)
            failed |= {self.names[int(rows[start + i])]: item for i, item in enumerate(part) if isinstance(item, str)}
        if failed.keys() - self._unread.keys():
            self._unread |= failed
            write_json(self.ledger, self._unread)
        return tokens

    def _home(self, rows: int) -> torch.device:
        size = rows * math.prod(self.shape) * torch.float16.itemsize
        return self.accelerator.device if size <= ON_DEVICE else torch.device("cpu")


class Stored:
    """Tokens that lie on disk, as `Tokens` gives them, on the CPU; every rank reads all rows that it asks for."""

    def __init__(self, store: Store) -> None:
        self._values, self._unread = store.values, store.missing()

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows, tokens (B, *shape)) of each minibatch; NaN where the video could not be read."""
        for _, rows in batches:
            values = self._values[rows]
            values[torch.isin(rows, self._unread)] = torch.nan
            yield rows, values


def keep(
    tokens: Tokens,
    folder: Path,
    key: dict[str, Any],
    batch: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Stored:
    """Encode every row once, each rank a share of what is not yet in the store of `key` in `folder`, and read it there.

    Raises:
        ProbeError: the disk has no room for it, or features are not finite.
    """
    count, wait = len(tokens.names), tokens.accelerator.wait_for_everyone
    first_alone(tokens.accelerator, lambda: open_store(folder, key, count, tokens.shape, torch.float16))
    store = open_store(folder, key, count, tokens.shape, torch.float16)
    missing = store.missing()
    wait()  # until all have looked: what is missing must not depend on who was first to write
    done = count - len(missing)
    for rows, values in tokens.own((0, rows) for rows in missing[rank() :: processes()].split(batch)):
        read = is_read(values).cpu()
        store.write(rows[read], values[read.to(values.device)])
        done += processes() * len(rows)
        progress(min(done, count))
    wait()
    progress(count)
    return Stored(store)


def is_read(tokens: Tensor) -> Tensor:
    """Which rows of tokens (B, …) are of videos that could be read: (B) bool."""
    return tokens.flatten(1)[:, 0].isfinite()


def only_read(rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B) and tokens (B, …) without those of videos that could not be read; where all could, no copy."""
    read = is_read(tokens)
    return (rows, tokens) if read.all() else (rows[read.cpu()], tokens[read])


class _Items(Dataset):
    """What `load` gives, or the reason why not."""

    def __init__(self, load: Load) -> None:
        self.load = load

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, ...] | str:
        try:
            return self.load(*item)
        except (DataError, OSError) as error:
            return str(error)
