"""What the tests of faults share: a time limit, shards with other bytes under right checksums, runs to compare."""

import hashlib
import io
import json
import signal
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa.data.clip import Clip
from jepa.data.index import INDEX_FILES, MEMBERS_FILE, Manifest
from jepa.data.order import Mixture, order


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the midst of what takes longer."""

    def late(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    left = signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(left)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """A test fails after a minute: none may hang."""
    with within(60):
        yield


def rewrite(folder: Path, changes: Mapping[str, Mapping[str, bytes]]) -> None:
    """Give members of samples (key -> extension -> bytes) other bytes, as if these had been packed."""
    manifest = Manifest.load(folder)
    entries, rows, number = list(manifest), np.load(folder / MEMBERS_FILE), 0
    shards = []
    for shard in manifest.shards:
        old = (folder / shard.name).read_bytes()
        with tarfile.open(folder / shard.name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for entry in (e for e in entries if e.shard == shard.name):
                for ext, (offset, size, _) in entry.members.items():
                    part = changes.get(entry.key, {}).get(ext, old[offset : offset + size])
                    digest = np.frombuffer(hashlib.sha256(part).digest(), np.uint8)
                    rows[number] = (manifest.extensions.index(ext), tar.offset + 512, len(part), digest)
                    info = tarfile.TarInfo(f"{entry.key}.{ext}")
                    info.size = len(part)
                    tar.addfile(info, io.BytesIO(part))
                    number += 1
        data = (folder / shard.name).read_bytes()
        shards.append([shard.name, len(data), hashlib.sha256(data).hexdigest()])
    np.save(folder / MEMBERS_FILE, rows)
    refit(folder, shards=shards)


def refit(folder: Path, **values: object) -> None:
    """Change dataset.json, and make its checksums of the index fit."""
    path = folder / "dataset.json"
    index = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in INDEX_FILES}
    path.write_text(json.dumps({**json.loads(path.read_text()), "index": index, **values}))


def edit_rows(folder: Path, name: str, change: Callable[[np.ndarray], None]) -> None:
    """Change rows of a file of the index, and make its checksum fit."""
    rows = np.load(folder / name)
    change(rows)
    np.save(folder / name, rows)
    refit(folder)


def expected(bad: Sequence[int], samples: int, batch_size: int, seed: int, steps: int) -> tuple[list, list]:
    """The sample ids of every batch if `bad` ones cannot be read, and by batch the ones that were replaced."""
    mixture, batches, ledger = Mixture((samples,), batch_size, seed), [], []
    for step in range(steps):
        ids, skipped = [], []
        for slot in range(batch_size):
            k = 0
            while (i := order(mixture, step, slot, replacement=k).sample) in bad:
                skipped.append(i)
                k += 1
            ids.append(i)
        batches.append(ids)
        ledger.append(skipped)
    return batches, ledger


def same(a: Clip, b: Clip) -> bool:
    """Whether two batches are equal to the last bit."""
    names = ("frames", "sample_id", "epoch", "valid")
    return a.step == b.step and all(torch.equal(getattr(a, n), getattr(b, n)) for n in names)


def all_same(a: Sequence[Clip], b: Sequence[Clip]) -> bool:
    """Whether two runs are equal to the last bit; runs without batches are not."""
    return len(a) == len(b) > 0 and all(map(same, a, b))


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file by its name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
