"""Features or frames on disk: a memory-mapped tensor that is filled row by row and outlives whoever is killed.

A store is a folder named by what its rows are made from. `values.bin` holds the rows, one after the other;
`done.bin` a byte for each, which is set only when the row has reached the disk; `store.json` says what they are.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa.probes.kinds.base import ProbeError
from jepa.status import write_json

_VALUES, _DONE, _FACTS = "values.bin", "done.bin", "store.json"


def digest(*parts: object) -> str:
    """A name for what JSON-able parts determine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Store:
    """`rows` tensors of one shape and dtype in a folder. Processes may write at once, each its own rows."""

    folder: Path
    rows: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def values(self) -> Tensor:
        """All rows (rows, *shape), mapped: what is indexed is read, and no more. Rows that are missing are zeros."""
        count = self.rows * math.prod(self.shape)
        path = str(self.folder / _VALUES)
        return torch.from_file(path, shared=False, size=count, dtype=self.dtype).view(self.rows, *self.shape)

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return not len(self.missing())

    def missing(self) -> Tensor:
        """Numbers (int64, rising) of the rows that are yet to be written."""
        return torch.from_numpy(np.flatnonzero(np.fromfile(self.folder / _DONE, np.uint8) == 0))

    def write(self, ids: Tensor | Sequence[int], values: Tensor) -> None:
        """Put values (n, *shape) into the rows `ids` (n): they are there, or missing still, whenever this is cut off.

        Raises:
            ProbeError: a value that the store's dtype cannot hold, or that is not finite.
        """
        numbers = torch.as_tensor(ids, dtype=torch.int64)
        own = values.to("cpu", self.dtype).contiguous()
        if own.shape != (len(numbers), *self.shape):
            raise ValueError(f"{len(numbers)} rows of {self.shape} are to be written, not {tuple(own.shape)}")
        if not own.isfinite().all():
            why = f"{self.dtype} cannot hold" if values.isfinite().all() else "are not finite"
            raise ProbeError(f"features have values that {why}; look at the encoder's weights and precision")
        data, size = own.view(torch.uint8).flatten(1).numpy(), self._row_bytes()
        with (self.folder / _VALUES).open("r+b") as kept, (self.folder / _DONE).open("r+b") as done:
            for start, length, row in _runs(numbers):
                _write_at(kept.fileno(), data[start : start + length].tobytes(), row * size)
            os.fsync(kept.fileno())  # a row counts only when it is on the disk
            for _, length, row in _runs(numbers):
                _write_at(done.fileno(), b"\1" * length, row)
            os.fsync(done.fileno())

    def _row_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor that may lie on disk, read when they are indexed: stands where a tensor would hold them."""

    values: Tensor  # or what stands for one
    ids: Tensor  # (B) int64, the rows of `values` that these are

    @property
    def shape(self) -> torch.Size:
        """As of a tensor."""
        return torch.Size((len(self.ids), *self.values.shape[1:]))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, which: Tensor | int | slice) -> Tensor:
        return self.values[self.ids[which]]

    def split(self, size: int) -> Iterator[Tensor]:
        """The rows in order, so many at a time."""
        return (self.values[ids] for ids in self.ids.split(size))


def open_store(
    folder: Path, key: Mapping[str, Any], rows: int, shape: Sequence[int], dtype: torch.dtype = torch.float16
) -> Store:
    """The store of what `key` (JSON-able) determines, in a subfolder of `folder`; made where there is none yet.

    float16 suits tokens that a LayerNorm has left, which lie within ±√D times its gain, far below 65504, and keeps
    eight times bfloat16's precision there. A key must hold all that decides the values: weights, data, clips.

    Raises:
        ProbeError: the disk has no room for it.
    """
    return open_at(Path(folder) / digest(_facts(key, rows, shape, dtype)), key, rows, shape, dtype)


def open_at(folder: Path, key: Mapping[str, Any], rows: int, shape: Sequence[int], dtype: torch.dtype) -> Store:
    """As `open_store`, in this very folder, whose name must stand for all that decides the values."""
    store, facts = Store(folder, rows, tuple(shape), dtype), _facts(key, rows, shape, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    _allocate(store)
    if not (store.folder / _FACTS).is_file():
        write_json(store.folder / _FACTS, facts)
    return store


def reopen(folder: Path) -> Store:
    """The store that was made in this very folder."""
    facts = json.loads((folder / _FACTS).read_text())
    return Store(folder, facts["rows"], tuple(facts["shape"]), getattr(torch, facts["dtype"]))


def _facts(key: Mapping[str, Any], rows: int, shape: Sequence[int], dtype: torch.dtype) -> dict[str, Any]:
    return {"key": dict(key), "rows": rows, "shape": list(shape), "dtype": str(dtype).removeprefix("torch.")}


def _allocate(store: Store) -> None:
    """Reserve both files in full. Rows that a shortened file has lost are missing again."""
    whole = {_VALUES: store.rows * store._row_bytes(), _DONE: store.rows}
    sizes = {name: _size(store.folder / name) for name in whole}
    if sizes == whole:
        return
    needed, free = sum(whole.values()) - sum(sizes.values()), shutil.disk_usage(store.folder).free
    if needed > free:
        gb = 1e9
        raise ProbeError(
            f"{store.folder.parent}: {needed / gb:.1f} GB are needed, the disk has {free / gb:.1f} GB; make room, or "
            "choose out=… on another disk"
        )
    left = sizes[_VALUES] // store._row_bytes()  # rows that are whole
    with (store.folder / _VALUES).open("ab") as kept, (store.folder / _DONE).open("ab"):
        pass  # they exist; what is in them stays
    with (store.folder / _VALUES).open("r+b") as kept, (store.folder / _DONE).open("r+b") as done:
        _reserve(done.fileno(), whole[_DONE])
        if left < store.rows:
            _write_at(done.fileno(), bytes(store.rows - left), left)
            os.fsync(done.fileno())
        _reserve(kept.fileno(), whole[_VALUES])


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reserve(file: int, size: int) -> None:
    os.ftruncate(file, size)
    if hasattr(os, "posix_fallocate"):  # where there is none, a disk may fill up later
        os.posix_fallocate(file, 0, size)


def _write_at(file: int, data: bytes, offset: int) -> None:
    """All of it: the system may take less at a time."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _runs(ids: Tensor) -> Iterator[tuple[int, int, int]]:
    """(first place, length, row of the first place) of every stretch of ids that rise by one."""
    breaks = (ids.diff() != 1).nonzero()[:, 0] + 1
    bounds = [0, *breaks.tolist(), len(ids)]
    for start, stop in pairwise(bounds):
        if stop > start:
            yield start, stop - start, int(ids[start])
