"""Crafted shards and indexes: nothing of them is run, extracted or written, and none takes more memory than it has.

Elsewhere: the members that `verify` names in test_verify; `pipe:`, http and other places, off by default, in
test_locations; pictures of 100,000 pixels a side in test_video. Nothing is ever decompressed that is not a picture.
"""

import io
import json
import os
import pickle
import runpy
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jepa.data.config import DataConfig
from jepa.data.errors import DataError
from jepa.data.index import INDEX_FILES, KEYS_FILE, MEMBERS_FILE, SAMPLES_FILE, Manifest
from jepa.data.loader import clips
from jepa.data.verify import verify

faults = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fault_fixtures.py"))))
watchdog = faults.watchdog


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


class Gadget:
    """Makes a folder `ran` where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("ran",)


def npy(shape: object, dtype: str = "<f4", body: bytes = bytes(80)) -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


def objects() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Gadget()], object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.fault("D16")
def test_members_that_the_index_does_not_name_are_never_touched(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D16: also not by a loader, although the checksum of the shard fits."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    kinds = {"../evil.mp4": tarfile.REGTYPE, str(tmp_path / "evil"): tarfile.REGTYPE, "evil.pyd": tarfile.REGTYPE}
    kinds |= {"link.mp4": tarfile.SYMTYPE, "device.mp4": tarfile.CHRTYPE, "pipe.mp4": tarfile.FIFOTYPE}
    path = copy / "shard-000000.tar"
    with tarfile.open(path, "a") as tar:
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
            data = pickle.dumps(Gadget()) if kind == tarfile.REGTYPE else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    shards = json.loads((copy / "dataset.json").read_text())["shards"]
    from jepa.data.shards import file_sha256

    faults.refit(copy, shards=[[path.name, path.stat().st_size, file_sha256(path)], *shards[1:]])
    before = faults.contents(copy)
    loader = clips([Manifest.load(copy)], DataConfig(frames=2, size=16), batch_size=12, seed=0, steps=2)
    assert all(sorted(batch.sample_id.tolist()) == list(range(12)) for batch in loader) and not loader.skipped
    assert len(list(verify(str(copy)))) == len(kinds)
    assert faults.contents(copy) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "here"] and not list((tmp_path / "here").iterdir())


@pytest.mark.fault("D16")
@pytest.mark.parametrize(
    "part",
    [
        {"states.npy": objects()},
        {"states.npy": npy((10**12,))},
        {"states.npy": npy((-5, -4))},
        {"states.npy": npy((20,), "V0", b"")},
        {"states.npy": npy("(" * 3000)},
        {"states.npy": npy("-" * 9000 + "1")},
        {"states.npy": npy((20,), "(" * 50)},
        {"states.npy": b"\x93NUMPY\x02\x00" + b"\xff" * 4 + bytes(80)},
        {"states.npy": b"\x93NUMPY\x03\x00" + bytes(80)},
        {"states.npy": pickle.dumps(Gadget())},
        {"json": pickle.dumps(Gadget())},
        {"json": b"[" * 100_000},
        {"json": b"9" * 100_000},
    ],
    ids=lambda part: next(f"{name}-{data[:9]!r}-{len(data)}" for name, data in part.items()),
)
def test_crafted_members_are_refused(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: dict[str, bytes]
) -> None:
    """D16, with checksums that fit."""
    monkeypatch.chdir(tmp_path)
    faults.rewrite(copy, {"episode_000003": part})
    with pytest.raises(DataError, match=r"^shard-000000\.tar: episode_000003: not a sample of `jepa pack`: [^\n]+$"):
        Manifest.load(copy).read(3)
    assert not (tmp_path / "ran").exists()


def set_rows(name: str, row: int, value: object) -> Callable[[np.ndarray], None]:
    return lambda rows: rows[name].__setitem__(row, value)


def rename(keys: np.ndarray) -> None:
    keys[42:56] = np.frombuffer(b"../../../evil\n", np.uint8)  # of sample 3


CRAFTED: dict[str, tuple[str, Callable[[np.ndarray], None]]] = {
    "offset behind the shard": (MEMBERS_FILE, set_rows("offset", slice(18, 24), 1 << 40)),
    "offset beyond all numbers": (MEMBERS_FILE, set_rows("offset", slice(18, 24), (1 << 64) - 1)),
    "size of a terabyte": (MEMBERS_FILE, set_rows("size", slice(18, 24), 1 << 40)),
    "extension": (MEMBERS_FILE, set_rows("extension", slice(18, 24), 999)),
    "shard": (SAMPLES_FILE, set_rows("shard", 3, 77)),
    "members backwards": (SAMPLES_FILE, set_rows("member", 4, 0)),
    "all members": (SAMPLES_FILE, set_rows("member", 4, 1 << 63)),
    "all keys": (SAMPLES_FILE, set_rows("key", 4, 1 << 63)),
    "no frames": (SAMPLES_FILE, set_rows("frames", 3, 0)),
    "no width": (SAMPLES_FILE, set_rows("width", 3, 0)),
    "no rate": (SAMPLES_FILE, set_rows("fps", 3, np.nan)),
    "key": (KEYS_FILE, rename),
}


@pytest.mark.fault("D16")
@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_rows_of_the_index_are_refused_and_counted(copy: Path, case: str) -> None:
    """D16: the run goes on without the sample."""
    faults.edit_rows(copy, *CRAFTED[case])
    manifest = Manifest.load(copy)
    with pytest.raises(DataError, match=r"^[^\n]*pack the data again$"):
        manifest.read(3)
    loader = clips([manifest], DataConfig(frames=2, size=16, workers=1, cache_gb=1), batch_size=12, seed=0, steps=1)
    assert 3 not in next(loader).sample_id
    assert (str(copy), "sample 3") in [skipped[:2] for skipped in loader.skipped]


@pytest.mark.fault("D16")
@pytest.mark.parametrize("name", INDEX_FILES)
def test_crafted_files_of_the_index_are_refused(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """D16."""
    monkeypatch.chdir(tmp_path)
    for data in (objects(), pickle.dumps(Gadget()), npy((10**12,), "|u1"), npy("(" * 3000), npy("-" * 9000 + "1")):
        (copy / name).write_bytes(data)
        with pytest.raises(DataError, match=rf"{name}: [^\n]*pack the data again$"):
            Manifest.load(copy)
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault("D16")
@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/shadow.tar", "..", "a/b.tar", "http://localhost/x.tar", 5])
def test_crafted_names_of_shards_are_refused(copy: Path, name: object) -> None:
    """D16: before anything of that name is opened."""
    values = json.loads((copy / "dataset.json").read_text())
    faults.refit(copy, shards=[[name, *values["shards"][0][1:]], *values["shards"][1:]])
    with pytest.raises(DataError, match=r"dataset\.json: [^\n]*(not a plain name|damaged)"):
        Manifest.load(copy)
    (copy / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"dataset\.json: damaged"):
        Manifest.load(copy)


HUNGRY = """
import resource, sys
import numpy as np
from jepa.data.errors import DataError
from jepa.data.index import Manifest

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for folder in sys.argv[1:]:
    try:
        manifest = Manifest.load(folder)
    except DataError as error:
        print(error)
        continue
    for i in range(12):
        try:
            manifest.read(i)
            print("read", i)
        except DataError:
            pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.fault("D16")
def test_sizes_that_are_made_up_take_no_memory(copy: Path, tmp_path: Path) -> None:
    """D16: a shard of 20 GB of nothing with a sample of 9 GB; a sample of 10⁶ members and a key of 10⁸ letters."""
    greedy = Path(shutil.copytree(copy, tmp_path / "greedy"))
    os.truncate(copy / "shard-000000.tar", 20 << 30)
    shards = json.loads((copy / "dataset.json").read_text())["shards"]
    faults.refit(copy, shards=[["shard-000000.tar", 20 << 30, ""], *shards[1:]])
    faults.edit_rows(copy, MEMBERS_FILE, set_rows("size", 0, 9 << 30))
    members = np.load(greedy / MEMBERS_FILE)
    np.save(greedy / MEMBERS_FILE, np.concatenate([members, np.repeat(members[-1:], 10**6)]))
    np.save(greedy / KEYS_FILE, np.concatenate([np.load(greedy / KEYS_FILE), np.full(10**8, ord("a"), np.uint8)]))
    command = [sys.executable, "-c", HUNGRY, copy, greedy]
    *said, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[:-1] == [f"read {i}" for i in range(1, 12)] and "the index of sample 11 is damaged" in said[-1]
    assert int(peak) < 50  # MiB
