"""A folder of shards as a random-access list: which sample lies at which bytes of which file."""

import hashlib
import io
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from jepa.data.clip import Spec
from jepa.data.errors import DataError

FORMAT = "jepa-shards-1"
SPEC_FILE, INDEX_FILE, REJECTED_FILE = "dataset.json", "index.jsonl", "rejected.jsonl"


@dataclass(frozen=True)
class Entry:
    """One line of the index. `members` maps an extension to (byte offset in the shard, size, sha256)."""

    id: int
    key: str
    shard: str
    frames: int
    fps: float
    width: int
    height: int
    members: dict[str, tuple[int, int, str]]

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the sample's arrays."""
        return tuple(ext.removesuffix(".npy") for ext in self.members if ext.endswith(".npy"))


@dataclass(frozen=True)
class Sample:
    """What is stored of one video: its file's bytes, its arrays by name, its metadata."""

    video: bytes
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    id: int


@dataclass(frozen=True)
class Manifest:
    """The samples of a packed folder, in the order of their ids."""

    dir: Path
    spec: Spec
    samples: tuple[Entry, ...]

    @staticmethod
    def load(folder: str | Path) -> "Manifest":
        """Read the index of `folder` and check that every shard is there and long enough.

        Raises:
            DataError: no such folder, not a packed folder, or a shard is missing or cut off.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"no such folder of shards: '{folder}'; make one with `jepa pack`")
        for name in (SPEC_FILE, INDEX_FILE):
            if not (folder / name).is_file():
                raise DataError(f"{folder}: no {name}; this is not a folder that `jepa pack` finished")
        spec = _read_spec(folder / SPEC_FILE)
        entries = _read_index(folder / INDEX_FILE)
        if spec.samples != len(entries):
            raise DataError(f"{folder}: {SPEC_FILE} promises {spec.samples} samples, {INDEX_FILE} has {len(entries)}")
        _check_shards(folder, entries)
        return Manifest(folder, spec, entries)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def sha256(self) -> str:
        """Digest of the index: of the name, place and content of every sample."""
        return hashlib.sha256((self.dir / INDEX_FILE).read_bytes()).hexdigest()

    def read(self, i: int) -> Sample:
        """Sample `i`, each part checked against its sha256.

        Raises:
            DataError: the bytes are missing or not those that were packed; names shard and key.
        """
        entry = self.samples[i]
        try:
            with open(self.dir / entry.shard, "rb") as file:
                parts = {ext: _member(file, entry, ext) for ext in entry.members}
        except OSError as error:
            raise DataError(f"{entry.shard}: {entry.key}: cannot be read: {error.strerror}") from error
        video = next(ext for ext in parts if ext != "json" and not ext.endswith(".npy"))
        arrays = {name: np.load(io.BytesIO(parts[f"{name}.npy"]), allow_pickle=False) for name in entry.arrays}
        return Sample(parts[video], arrays, json.loads(parts["json"]), i)


def _member(file: io.BufferedReader, entry: Entry, ext: str) -> bytes:
    offset, size, digest = entry.members[ext]
    file.seek(offset)
    data = file.read(size)
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataError(f"{entry.shard}: {entry.key}.{ext}: sha256 differs from the index; pack the data again")
    return data


def _read_spec(path: Path) -> Spec:
    try:
        values = json.loads(path.read_text())
        if values.pop("format") != FORMAT:
            raise DataError(f"{path}: not of the format {FORMAT}; pack the data again")
        for name in ("action_units", "state_units"):
            values[name] = tuple(values[name])
        for name in ("labels", "extra"):
            values[name] = {key: tuple(names) for key, names in values[name].items()}
        return Spec(**{f.name: values[f.name] for f in fields(Spec)})
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: damaged ({type(error).__name__}: {error}); pack the data again") from error


def _read_index(path: Path) -> tuple[Entry, ...]:
    entries = []
    for i, line in enumerate(path.read_text().splitlines()):
        try:
            values = json.loads(line)
            values["members"] = {ext: tuple(place) for ext, place in values["members"].items()}
            entry = Entry(**values)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise DataError(f"{path}: line {i + 1} is damaged ({error}); pack the data again") from error
        if entry.id != i:
            raise DataError(f"{path}: line {i + 1} has id {entry.id}, expected {i}; pack the data again")
        if Path(entry.shard).name != entry.shard:
            raise DataError(f"{path}: line {i + 1}: shard '{entry.shard}' is not a plain file name")
        entries.append(entry)
    if not entries:
        raise DataError(f"{path}: no samples; pack the data again")
    return tuple(entries)


def _check_shards(folder: Path, entries: tuple[Entry, ...]) -> None:
    needed: dict[str, int] = {}
    for entry in entries:
        end = max(offset + size for offset, size, _ in entry.members.values())
        needed[entry.shard] = max(end, needed.get(entry.shard, 0))
    for shard, end in needed.items():
        if not (folder / shard).is_file():
            raise DataError(f"{folder}: shard {shard} is missing; put it back or pack the data again")
        if (size := (folder / shard).stat().st_size) < end:
            raise DataError(f"{folder}: shard {shard} is cut off: {size} bytes, the index needs {end}")
