"""Check every byte of packed data against its index, and say what is wrong where."""

import hashlib
import json
import tarfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from jepa.data.errors import DataError
from jepa.data.index import DATASET_FILE, INDEX_FILES, Manifest, Shard, read_dataset
from jepa.data.shards import file_sha256
from jepa.data.store import open_store

PIECE = 1 << 24  # bytes read at a time
RUNS_CODE = {".pyd", ".pkl", ".pickle", ".pth", ".pt"}  # endings that some readers unpickle without being asked


@dataclass(frozen=True)
class Fault:
    """Something wrong with a file of the data set."""

    file: str
    reason: str


def verify(location: str, *, progress: Callable[[int, int], None] | None = None) -> Iterator[Fault]:
    """Everything wrong with the packed data at a path or URL; `progress` gets the bytes of shards done and to do.

    Index and shards are compared with the checksums in dataset.json, members of the tars with those in the index. Tars
    are also searched for members that would harm a careless reader. Nothing is extracted; nothing is written but, of
    remote data, the index to the cache.

    Raises:
        DataError: there is no readable dataset.json.
    """
    store = open_store(location, cache_gb=0)  # a cached copy would be checked in place of what is there
    manifest = read_dataset(store)
    damaged = list(_index(manifest))
    yield from damaged
    # without a listing, a missing or short shard shows when it is read
    sizes = store.sizes() or {shard.name: shard.bytes for shard in manifest.shards}
    extra = {name for name in sizes if name.endswith(".tar")} - {shard.name for shard in manifest.shards}
    yield from (Fault(name, "is not in the index") for name in sorted(extra))
    # where each shard's samples begin; without a sound index nothing can be said of samples
    bounds = None if damaged else np.searchsorted(manifest.samples["shard"].copy(), range(len(manifest.shards) + 1))
    done, total = 0, sum(shard.bytes for shard in manifest.shards)
    for number, shard in enumerate(manifest.shards):
        if shard.name not in sizes:
            yield Fault(shard.name, "is missing")
        elif sizes[shard.name] != shard.bytes:
            yield Fault(shard.name, f"has {sizes[shard.name]} bytes, the index says {shard.bytes}")
        else:
            samples = range(0) if bounds is None else range(int(bounds[number]), int(bounds[number + 1]))
            yield from _shard(manifest, shard, samples)
        done += shard.bytes
        if progress:
            progress(done, total)


def _index(manifest: Manifest) -> Iterator[Fault]:
    digests, faults = json.loads(manifest.store.read(DATASET_FILE)).get("index"), 0
    for name in INDEX_FILES:
        try:
            if isinstance(digests, dict) and file_sha256(manifest.store.local(name)) == digests.get(name):
                continue
            yield Fault(name, "differs from its checksum")
        except DataError as error:
            yield Fault(name, str(error))
        faults += 1
    if not faults and (found := len(manifest.samples)) != len(manifest):
        yield Fault(DATASET_FILE, f"promises {len(manifest)} samples, the index has {found}")


def _shard(manifest: Manifest, shard: Shard, samples: range) -> Iterator[Fault]:
    try:
        file = _Hashed(manifest, shard, _members(manifest, samples))
        yield from _search(file)
        digest = file.finish()
    except DataError as error:
        yield Fault(shard.name, str(error))
        return
    yield from (Fault(shard.name, f"{name} differs from its checksum") for name in file.damaged)
    if digest != shard.sha256 and not file.damaged:
        yield Fault(shard.name, "differs from its checksum, in tar headers or in samples that the index does not name")


def _search(file: "_Hashed") -> Iterator[Fault]:
    """What would harm those who extract or decode the shard without care."""
    try:
        # zeros in its midst must not hide from the search what comes after them
        with tarfile.open(fileobj=file, mode="r|", bufsize=PIECE, ignore_zeros=True) as tar:  # type: ignore[call-overload]
            for member in tar:
                if reason := _harmful(member):
                    yield Fault(file.shard.name, f"member {member.name!r} {reason}")
    except DataError:
        raise
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the latter two for numbers in damaged headers
        yield Fault(file.shard.name, f"not a whole tar: {error}")


def _harmful(member: tarfile.TarInfo) -> str | None:
    path = PurePosixPath(member.name)
    if path.name != member.name or path.name == ".." or "\\" in member.name:
        return "would be extracted elsewhere"
    if not member.isreg():
        return "is not a plain file"
    if RUNS_CODE & {suffix.lower() for suffix in path.suffixes}:
        return "may run code in readers that unpickle"
    return None


class _Member(NamedTuple):
    """Where the index says that a member lies in its shard."""

    start: int  # bytes
    stop: int
    sha256: str
    name: str


def _members(manifest: Manifest, samples: range) -> list[_Member]:
    """The members of samples in the order of their places."""
    entries = (manifest[i] for i in samples)
    return sorted(
        _Member(offset, offset + size, digest, f"{entry.key}.{extension}")
        for entry in entries
        for extension, (offset, size, digest) in entry.members.items()
    )


class _Hashed:
    """A shard read once from front to back, and hashed on the way: as a whole, and member by member."""

    def __init__(self, manifest: Manifest, shard: Shard, members: list[_Member]) -> None:
        self.manifest, self.shard, self.place = manifest, shard, 0
        self.whole, self.part = hashlib.sha256(), hashlib.sha256()
        self.to_come = deque(members)
        self.damaged: list[str] = []  # names of members

    def finish(self) -> str:
        """Read what is left; the digest of the whole."""
        while self.read(PIECE):
            pass
        self.damaged += [member.name for member in self.to_come]  # the index says they lie behind the end
        return self.whole.hexdigest()

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end."""
        end = min(self.place + size, self.shard.bytes)
        data = self.manifest.store.read_range(self.shard.name, self.place, end) if end > self.place else b""
        self.whole.update(data)
        while self.to_come and self.to_come[0].start < end:
            member = self.to_come[0]
            self.part.update(data[max(member.start - self.place, 0) : member.stop - self.place])
            if member.stop > end:
                break
            if self.part.hexdigest() != member.sha256:
                self.damaged.append(member.name)
            self.part = hashlib.sha256()
            self.to_come.popleft()
        self.place = end
        return data
