"""The cache keeps its bound, drops the least recently used, and never holds half a file under a whole one's name."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from jepa.data.cache import RangeCache, keep_file


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("??/*"))


def age(cache: RangeCache, key: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(cache._path(key), (then, then))


def test_the_bound_is_kept_by_bytes(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 100_000)
    for i in range(200):
        cache.put(f"key {i}", bytes(1 + 61 * i))
        assert bytes_in(tmp_path) <= 100_000
    assert bytes_in(tmp_path) > 50_000
    assert cache.get("key 199", 1 + 61 * 199) == bytes(1 + 61 * 199)
    assert cache.get("key 50", 1 + 61 * 50) is None


def test_processes_count_together(tmp_path: Path) -> None:
    caches = [RangeCache(tmp_path, 100_000) for _ in range(20)]
    for i in range(200):
        caches[i % 20].put(f"key {i}", bytes(4000))
        assert bytes_in(tmp_path) <= 100_000
    assert not (tmp_path / "tally").exists() or (tmp_path / "tally").stat().st_size < 4  # begun anew at each pruning


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 100_000)
    for i in range(6):
        cache.put(f"key {i}", bytes(12_000))
        age(cache, f"key {i}", 100 - i)
    assert cache.get("key 1", 12_000)  # is now the most recent
    for i in (6, 7):
        cache.put(f"key {i}", bytes(12_000))
    cache.prune()
    assert [i for i in range(8) if cache.get(f"key {i}", 12_000)] == [1, 3, 4, 5, 6, 7]


def test_a_lower_limit_holds_from_the_start(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 100_000)
    for i in range(8):
        cache.put(f"key {i}", bytes(1000))
    RangeCache(tmp_path, 4000)
    assert bytes_in(tmp_path) == 3000


def test_what_would_push_out_too_much_is_not_kept(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 8000)
    cache.put("key", bytes(1001))
    assert cache.get("key", 1001) is None and bytes_in(tmp_path) == 0


def test_an_emptied_or_vanished_range_is_not_there(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 8000)
    for damage in (lambda path: path.write_bytes(b""), Path.unlink, lambda path: path.write_bytes(b"123")):
        cache.put("key", b"12345")
        damage(cache._path("key"))
        assert cache.get("key", 5) is None
    cache.put("key", b"12345")
    cache.forget("key")
    cache.forget("key")
    assert cache.get("key", 5) is None


def test_a_full_disk_is_told_and_reading_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = RangeCache(tmp_path, 8000)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jepa.data.cache.os.replace", full)
    with pytest.warns(UserWarning, match="No space left"):
        cache.put("key", b"12345")
    assert bytes_in(tmp_path) == 0


def _killed_while_fetching(folder: Path) -> None:
    def fetch(path: str) -> None:
        Path(path).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    keep_file(folder, "memory://set/x.npy", "1", fetch)


def test_a_killed_download_leaves_no_wrong_file(tmp_path: Path) -> None:
    worker = multiprocessing.get_context("fork").Process(target=_killed_while_fetching, args=(tmp_path,))
    worker.start()
    worker.join(timeout=30)
    (part,) = tmp_path.iterdir()
    assert worker.exitcode == -signal.SIGKILL and part.read_bytes() == b"half"
    path = keep_file(tmp_path, "memory://set/x.npy", "1", lambda path: Path(path).write_bytes(b"whole"))
    assert path.read_bytes() == b"whole" and part.exists()  # another process might be at it
    os.utime(part, (0, 0))
    os.utime(path, (0, 0))
    assert keep_file(tmp_path, "memory://set/x.npy", "1", lambda _: pytest.fail("fetched again")) == path
    assert list(tmp_path.iterdir()) == [path]


def test_versions_and_files_are_kept_apart(tmp_path: Path) -> None:
    def keep(url: str, version: str) -> Path:
        return keep_file(tmp_path, url, version, lambda path: Path(path).write_text(url + version))

    paths = {keep(url, version) for url in ("memory://a/x", "memory://b/x") for version in "12"}
    assert len(paths) == 4 and keep("memory://a/x", "2").read_text() == "memory://a/x2"
