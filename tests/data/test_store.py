"""Local and remote folders give the same bytes, come back from passing faults, and name what stays unreadable."""

import errno
import io
import multiprocessing
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from jepa.data.errors import DataError
from jepa.data.store import LocalStore, RemoteStore, open_store

DATA = np.random.default_rng(0).bytes(5000)
FILES = {"shard-000000.tar": DATA, "dataset.json": b"{}", "index/x.npy": DATA[:300]}


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    for name, data in FILES.items():
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "set" / name).write_bytes(data)
    store = open_store(str(tmp_path / "set"))
    assert isinstance(store, LocalStore)
    return store


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    files = MemoryFileSystem()
    for name, data in FILES.items():
        files.pipe_file(f"/set/{name}", data)
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture
def remote(memory: MemoryFileSystem, tmp_path: Path) -> RemoteStore:
    store = open_store("memory://set", cache_dir=tmp_path / "cache")
    assert isinstance(store, RemoteStore)
    return store


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for; none is made."""
    asked: list[float] = []
    monkeypatch.setattr("jepa.data.retry.time.sleep", asked.append)
    return asked


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_every_way_to_read_gives_the_bytes(kind: str, request: pytest.FixtureRequest) -> None:
    store = request.getfixturevalue(kind)
    assert store.read("dataset.json") == b"{}"
    assert store.local("index/x.npy").read_bytes() == DATA[:300]
    assert store.sizes() == {"shard-000000.tar": 5000, "dataset.json": 2}
    for _ in range(2):  # from the source, from the cache
        for start, stop in ((0, 5000), (17, 18), (4000, 5000), (7, 7)):
            assert store.read_range("shard-000000.tar", start, stop) == DATA[start:stop]


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_bad_names_and_ranges(kind: str, request: pytest.FixtureRequest, pauses: list[float]) -> None:
    store = request.getfixturevalue(kind)
    for name in ("../set/dataset.json", "/etc/passwd", "a\\b"):
        for read in (store.read, store.local, lambda name: store.read_range(name, 0, 1)):
            with pytest.raises(DataError, match="not the name of a file"):
                read(name)
    for start, stop in ((-5, 10), (10, 5), (-5, -1)):
        with pytest.raises(DataError, match=r"shard-000000\.tar: bytes .* are no range"):
            store.read_range("shard-000000.tar", start, stop)
    assert pauses == []


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_a_cut_off_file_is_named(kind: str, request: pytest.FixtureRequest, pauses: list[float]) -> None:
    store = request.getfixturevalue(kind)
    with pytest.raises(DataError, match=r"set/shard-000000\.tar: .*cut off: 10 of 20 bytes \(tries: 4\)"):
        store.read_range("shard-000000.tar", 4990, 5010)


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_a_lost_file_costs_its_pauses_once(kind: str, request: pytest.FixtureRequest, pauses: list[float]) -> None:
    store = request.getfixturevalue(kind)
    for tries in (4, 1, 1):
        with pytest.raises(DataError, match=rf"set/gone\.tar: cannot be read: .*\(tries: {tries}\)$"):
            store.read_range("gone.tar", 0, 10)
    assert pauses == [0.1, 0.4, 1.6]
    for read in (store.read, store.local):
        with pytest.raises(DataError, match="absent"):
            read("absent")
    assert len(pauses) == 6


def test_lost_storage_is_not_waited_for_file_by_file(local: LocalStore, pauses: list[float]) -> None:
    for i in range(20):
        with pytest.raises(DataError, match=f"gone-{i}"):
            local.read(f"gone-{i}")
    assert sum(pauses) < 10  # seconds
    local.read("shard-000000.tar")
    with pytest.raises(DataError, match="tries: 4"):  # it is back, and so is patience
        local.read("gone-99")


def test_a_shard_that_comes_back_is_read(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    shard, away = local.local("shard-000000.tar"), Path(local.location) / "away"
    for _ in range(2):  # what came back is not held to be lost
        shard.rename(away)
        pauses = iter([lambda: None, lambda: away.rename(shard)])
        monkeypatch.setattr("jepa.data.retry.time.sleep", lambda _, pauses=pauses: next(pauses)())
        assert local.read_range("shard-000000.tar", 10, 20) == DATA[10:20]


def test_a_lost_shard_that_comes_back_late_has_all_its_tries_again(local: LocalStore, pauses: list[float]) -> None:
    shard, away = local.local("shard-000000.tar"), Path(local.location) / "away"
    shard.rename(away)
    with pytest.raises(DataError):
        local.read("shard-000000.tar")
    away.rename(shard)
    assert local.read("shard-000000.tar") == DATA
    shard.unlink()
    with pytest.raises(DataError, match="tries: 4"):
        local.read("shard-000000.tar")


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EACCES, "Permission denied"), (errno.EIO, "Input/output error"), (errno.ETIMEDOUT, "timed out")],
)
def test_faults_of_the_disk(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, pauses: list[float], number: int, said: str
) -> None:
    faults = 0

    def broken(path: Path, mode: str) -> io.BytesIO:
        nonlocal faults
        if faults:
            faults -= 1
            raise OSError(number, said, str(path))
        return io.BytesIO(DATA)

    monkeypatch.setattr("jepa.data.store.open", broken, raising=False)
    faults = 3
    assert local.read_range("shard-000000.tar", 1, 4) == DATA[1:4]
    faults = 4
    with pytest.raises(DataError, match=rf"shard-000000\.tar: cannot be read: .*{said}.*\(tries: 4\)"):
        local.read_range("shard-000000.tar", 1, 4)
    assert pauses == [0.1, 0.4, 1.6] * 2


def test_a_folder_that_is_not_there(tmp_path: Path, pauses: list[float]) -> None:
    with pytest.raises(DataError, match=r"no such folder of shards: .*nowhere"):
        open_store(tmp_path / "nowhere")
    assert pauses == []


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("https", "aiohttp")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str, package: str) -> None:
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=f"^{scheme}://x/y: .*pip install {package}$"):
        open_store(f"{scheme}://x/y")


@pytest.mark.parametrize("size", [-1.0, float("nan"), float("inf")])
def test_a_wrong_cache_size(size: float) -> None:
    with pytest.raises(DataError, match="cache_gb"):
        open_store("memory://set", cache_gb=size)


def test_ranges_are_kept_and_forgotten(remote: RemoteStore, memory: MemoryFileSystem) -> None:
    first = remote.read_range("shard-000000.tar", 0, 100)
    memory.pipe_file("/set/shard-000000.tar", bytes(5000))
    assert remote.read_range("shard-000000.tar", 0, 100) == first
    remote.forget("shard-000000.tar", 0, 100)
    assert remote.read_range("shard-000000.tar", 0, 100) == bytes(100)


def test_no_cache(memory: MemoryFileSystem, tmp_path: Path) -> None:
    store = open_store("memory://set", cache_gb=0, cache_dir=tmp_path / "cache")
    assert store.read_range("shard-000000.tar", 0, 100) == DATA[:100]
    store.forget("shard-000000.tar", 0, 100)
    memory.pipe_file("/set/shard-000000.tar", bytes(5000))
    assert store.read_range("shard-000000.tar", 0, 100) == bytes(100)
    assert not (tmp_path / "cache").exists()


def test_the_environment_says_where_the_cache_is(
    memory: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JEPA_CACHE", str(tmp_path / "there"))
    assert tmp_path / "there" in open_store("memory://set").local("index/x.npy").parents
    monkeypatch.delenv("JEPA_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = open_store("memory://set").local("index/x.npy")
    assert tmp_path / ".cache" / "jepa" / "shards" in path.parents


def test_a_changed_whole_file_is_fetched_again(remote: RemoteStore, memory: MemoryFileSystem) -> None:
    first = remote.local("index/x.npy")
    assert remote.local("index/x.npy") == first
    memory.pipe_file("/set/index/x.npy", bytes(300))
    assert remote.local("index/x.npy").read_bytes() == bytes(300)
    assert first.read_bytes() == DATA[:300]  # still there for who maps it


def test_a_download_that_breaks_off_leaves_nothing(
    remote: RemoteStore, monkeypatch: pytest.MonkeyPatch, pauses: list[float], tmp_path: Path
) -> None:
    monkeypatch.setattr(MemoryFileSystem, "get_file", lambda _, url, path: Path(path).write_bytes(DATA[:100]))
    with pytest.raises(DataError, match=r"index/x\.npy: .*cut off: 100 of 300 bytes"):
        remote.local("index/x.npy")
    assert list((tmp_path / "cache" / "files").iterdir()) == []


def test_sizes_of_many_files(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"shard-{i:06d}.tar").write_bytes(bytes(i))
    (tmp_path / "folder").mkdir()
    assert open_store(tmp_path).sizes() == {f"shard-{i:06d}.tar": i for i in range(200)}


def _read_many(store: RemoteStore, seed: int, answers: "multiprocessing.Queue[bool]") -> None:
    right = True
    for start in np.random.default_rng(seed).integers(0, 4800, 300).tolist():
        start -= start % 50  # so that the two meet
        right &= store.read_range("shard-000000.tar", start, start + 150) == DATA[start : start + 150]
        if start % 250 == 0:
            store.forget("shard-000000.tar", start, start + 150)
    answers.put(right)


def test_two_processes_share_a_small_cache(memory: MemoryFileSystem, tmp_path: Path) -> None:
    store = open_store("memory://set", cache_gb=2e-6, cache_dir=tmp_path / "cache")
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[bool] = context.Queue()
    workers = [context.Process(target=_read_many, args=(store, seed, answers)) for seed in range(2)]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=30) for _ in workers] == [True, True]
    for worker in workers:
        worker.join(timeout=30)
        assert worker.exitcode == 0
    kept = [path for path in (tmp_path / "cache" / "ranges").glob("??/*")]
    assert kept and sum(path.stat().st_size for path in kept) <= 2000


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_a_pickled_store_reads_on(kind: str, request: pytest.FixtureRequest) -> None:
    store = request.getfixturevalue(kind)
    store.read("dataset.json")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.location == store.location and copy.read("shard-000000.tar") == DATA
