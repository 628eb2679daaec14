"""A folder of shards as a random-access list: which sample lies at which bytes of which file.

The index is three flat arrays that stay on disk, so that it opens at once at any size and all processes of a machine
share what the system keeps of it: `index/samples.npy` (a row a sample), `index/members.npy` (a row a member of the
tars) and `index/keys.npy` (all keys, end to end). `dataset.json` says what the data promise, and holds the shards with
their sizes and checksums and the checksums of the index itself.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jepa.data.clip import Spec
from jepa.data.errors import DataError
from jepa.data.locations import checked_name
from jepa.data.npy import Table, read_npy
from jepa.data.store import LocalStore, RemoteStore, open_store

FORMAT = "jepa-shards-2"
DATASET_FILE, REJECTED_FILE = "dataset.json", "rejected.jsonl"
SAMPLES_FILE, MEMBERS_FILE, KEYS_FILE = INDEX_FILES = ("index/samples.npy", "index/members.npy", "index/keys.npy")
LARGEST_MEMBER = 1 << 32  # bytes; a larger one would fill the memory, whatever it is
LONGEST_KEY = 4096  # bytes

SAMPLE = np.dtype(
    [
        ("shard", "<u4"),
        ("member", "<u8"),  # its first row of members.npy; the last is before the next sample's first
        ("key", "<u8"),  # its first byte of keys.npy; likewise
        ("frames", "<u4"),
        ("fps", "<f8"),
        ("width", "<u4"),  # pixels, as shown
        ("height", "<u4"),
        ("rotation", "<u2"),  # degrees clockwise that stored pictures must be turned
        ("label", "<i4"),  # -1: none
    ]
)
MEMBER = np.dtype([("extension", "<u2"), ("offset", "<u8"), ("size", "<u8"), ("sha256", "u1", (32,))])


@dataclass(frozen=True)
class Entry:
    """One sample of the index. `members` maps an extension to (byte offset in the shard, size, sha256)."""

    id: int
    key: str
    shard: str
    frames: int
    fps: float  # frames per second, on average
    width: int
    height: int
    rotation: int
    label: int | None
    members: dict[str, tuple[int, int, str]]


@dataclass(frozen=True)
class Sample:
    """What is stored of one video: its file's bytes, its arrays by name, its metadata."""

    video: bytes
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    id: int


@dataclass(frozen=True)
class Shard:
    """One tar as it was written."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The samples of a packed folder, in the order of their ids. Small to pickle: the arrays stay on disk.

    `arrays` names the per-frame arrays that every sample has, `statistics` is what `jepa data stats` prints.
    """

    store: LocalStore | RemoteStore
    spec: Spec
    shards: tuple[Shard, ...]
    extensions: tuple[str, ...]
    arrays: tuple[str, ...]
    statistics: dict[str, Any]
    sha256: str  # of dataset.json, and through it of the index and the shards

    @staticmethod
    def load(location: str | Path, *, cache_gb: float = 8.0) -> "Manifest":
        """Open the folder of shards at a path or URL, and check that every shard is there in full length.

        Raises:
            DataError: no such folder, not a packed folder, or a shard is missing, too short, too long, or extra.
        """
        store = open_store(location, cache_gb=cache_gb)
        sizes = store.sizes()
        if sizes is not None and DATASET_FILE not in sizes:
            raise DataError(f"{location}: no {DATASET_FILE}; this is not a folder that `jepa pack` finished")
        manifest = read_dataset(store)
        if sizes is not None:
            _check_shards(store.location, manifest.shards, sizes)
        _check_index(manifest)
        return manifest

    @property
    def location(self) -> str:
        """The path or URL, for messages."""
        return self.store.location

    def __len__(self) -> int:
        return self.spec.samples

    @cached_property
    def samples(self) -> np.ndarray:
        """(samples) of `SAMPLE`, memory-mapped: for what concerns all of them."""
        return np.load(self.store.local(SAMPLES_FILE), mmap_mode="r", allow_pickle=False)

    @cached_property
    def _tables(self) -> "tuple[Table, Table, Table]":
        dtypes = (SAMPLE, MEMBER, np.dtype("u1"))
        return tuple(Table(self.store.local(n), d) for n, d in zip(INDEX_FILES, dtypes, strict=True))  # type: ignore

    def __getstate__(self) -> dict[str, Any]:
        opened = ("samples", "_tables")  # a pickled memory map would be a copy
        return {name: value for name, value in self.__dict__.items() if name not in opened}

    def __getitem__(self, i: int) -> Entry:
        """Entry `i`. Raises IndexError, and DataError where the index is damaged."""
        if not 0 <= i < len(self):
            raise IndexError(f"{self.location}: no sample {i} of {len(self)}")
        samples, members, keys = self._tables
        rows = samples[i : i + 2].tolist()
        row = dict(zip(SAMPLE.names or (), rows[0], strict=True))
        ends = dict(zip(SAMPLE.names or (), rows[1], strict=True)) if len(rows) > 1 else {}
        key = slice(row["key"], ends.get("key", len(keys)))
        own = slice(row["member"], ends.get("member", len(members)))
        damaged = f"{self.location}: the index of sample {i} is damaged; pack the data again"
        # before anything is read: a wrong number may mean the whole index
        if not (0 < key.stop - key.start <= LONGEST_KEY and 0 < own.stop - own.start <= len(self.extensions)):
            raise DataError(damaged)
        try:
            shard = self.shards[row["shard"]]
            entry = Entry(
                id=i,
                key=checked_name(keys[key].tobytes().decode(), self.location),
                shard=shard.name,
                **{name: row[name] for name in ("frames", "fps", "width", "height", "rotation")},
                label=row["label"] if row["label"] >= 0 else None,
                members={
                    self.extensions[extension]: (offset, size, bytes(digest).hex())
                    for extension, offset, size, digest in members[own].tolist()
                },
            )
        except (IndexError, UnicodeDecodeError) as error:
            raise DataError(damaged) from error
        inside = all(offset + size <= shard.bytes for offset, size, _ in entry.members.values())
        if not (inside and min(entry.frames, entry.width, entry.height) > 0 and 0 < entry.fps < math.inf):
            raise DataError(damaged)
        return entry

    def __iter__(self) -> Iterator[Entry]:
        return (self[i] for i in range(len(self)))

    def read(self, i: int) -> Sample:
        """Sample `i`, each part checked against its sha256.

        Raises:
            DataError: the bytes are missing or not those that were packed; names shard and key.
        """
        entry = self[i]
        start, stop = _extent(entry)
        data = self.store.read_range(entry.shard, start, stop)
        try:
            parts = _parts(entry, data)
        except DataError:
            self.store.forget(entry.shard, start, stop)  # a copy in the cache may be what is damaged
            parts = _parts(entry, self.store.read_range(entry.shard, start, stop))
        try:
            video = next(ext for ext in parts if ext != "json" and not ext.endswith(".npy"))
            arrays = {ext.removesuffix(".npy"): read_npy(part) for ext, part in parts.items() if ext.endswith(".npy")}
            return Sample(parts[video], arrays, json.loads(parts["json"]), i)
        except (StopIteration, KeyError, ValueError, RecursionError) as error:
            raise DataError(f"{entry.shard}: {entry.key}: not a sample of `jepa pack`: {error}") from error


def read_dataset(store: LocalStore | RemoteStore) -> Manifest:
    """What dataset.json says; raises DataError where it is damaged or of another format."""
    data = store.read(DATASET_FILE)
    place = f"{store.location}/{DATASET_FILE}"
    try:
        values = json.loads(data)
        if values["format"] != FORMAT:
            raise DataError(f"{place}: not of the format {FORMAT}; pack the data again")
        shards = tuple(Shard(name, int(size), sha) for name, size, sha in values["shards"])
        if bad := [s.name for s in shards if Path(s.name).name != s.name or not s.name.endswith(".tar")]:
            raise DataError(f"{place}: shard '{bad[0]}' is not a plain name of a tar file")
        return Manifest(
            store=store,
            spec=Spec.from_json(values["spec"]),
            shards=shards,
            extensions=tuple(values["extensions"]),
            arrays=tuple(values["arrays"]),
            statistics=values["statistics"],
            sha256=hashlib.sha256(data).hexdigest(),
        )
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{place}: damaged ({type(error).__name__}: {error}); pack the data again") from error


def _extent(entry: Entry) -> tuple[int, int]:
    places = [(offset, offset + size) for offset, size, _ in entry.members.values()]
    if not places or max(stop - start for start, stop in places) > LARGEST_MEMBER:
        raise DataError(f"{entry.shard}: {entry.key}: not a sample of `jepa pack`")
    start, stop = min(start for start, _ in places), max(stop for _, stop in places)
    if stop - start > LARGEST_MEMBER:
        raise DataError(f"{entry.shard}: {entry.key}: its members lie {stop - start} bytes apart")
    return start, stop


def _parts(entry: Entry, data: bytes) -> dict[str, bytes]:
    """The members by extension, cut from the bytes from the first to the last of them."""
    start, _ = _extent(entry)
    parts = {}
    for ext, (offset, size, digest) in entry.members.items():
        parts[ext] = data[offset - start : offset - start + size]
        if hashlib.sha256(parts[ext]).hexdigest() != digest:
            raise DataError(f"{entry.shard}: {entry.key}.{ext}: sha256 differs from the index; pack the data again")
    return parts


def _check_shards(location: str, shards: Sequence[Shard], sizes: dict[str, int]) -> None:
    for shard in shards:
        if shard.name not in sizes:
            raise DataError(f"{location}: shard {shard.name} is missing; put it back or pack the data again")
        if (size := sizes[shard.name]) != shard.bytes:
            fault = "is cut off" if size < shard.bytes else "has grown"
            raise DataError(f"{location}: shard {shard.name} {fault}: {size} bytes, the index says {shard.bytes}")
    if extra := sorted({n for n in sizes if n.endswith(".tar")} - {s.name for s in shards}):
        raise DataError(f"{location}: shard {extra[0]} is not in the index; move it away or pack the data again")


def _check_index(manifest: Manifest) -> None:
    """Only what costs no pass over the index; its checksums are for `jepa data verify`."""
    if not len(manifest):
        raise DataError(f"{manifest.location}: no samples; pack the data again")
    if (found := len(manifest._tables[0])) != len(manifest):
        raise DataError(f"{manifest.location}: {DATASET_FILE} promises {len(manifest)} samples, the index has {found}")
    manifest[0], manifest[len(manifest) - 1]
