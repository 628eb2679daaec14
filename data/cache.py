"""Keeps what was read from far away on disk: byte ranges up to a limit, and whole files as long as they are current."""

import hashlib
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp

_UNIT = 4096  # bytes of ranges per byte of the tally: about what a file system gives out at a time
_STALE_SECONDS = 86_400  # an older version of a file may still be in use by a run that began before


class RangeCache:
    """Byte ranges on disk, at most `limit` bytes of them: the least recently used goes first.

    All processes of a machine may share a folder. A range appears whole or not at all, its time of modification is
    that of its last use, and one that another process takes away is simply not there.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.prune()  # the limit may be lower than last time

    def get(self, key: str, size: int) -> bytes | None:
        """The `size` bytes kept under `key`; None where there are none."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return data if len(data) == size else None  # a crash of the machine may leave an empty file

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`, unless it is so long that it would push out an eighth of the rest."""
        if len(data) > self.limit / 8:
            return
        try:
            _write(self._path(key), lambda path: Path(path).write_bytes(data))
            self._count(len(data))
        except FileNotFoundError:
            pass  # somebody clears the folder at this moment
        except OSError as error:
            warnings.warn(f"{self.folder}: nothing more can be kept ({error}); reading goes on without", stacklevel=2)

    def forget(self, key: str) -> None:
        """Drop what is kept under `key`."""
        with suppress(OSError):
            self._path(key).unlink()

    def prune(self) -> None:
        """Delete the least recently used until three quarters of the limit are left.

        What another process takes away meanwhile, or another user owns, is passed over.
        """
        files = []
        for part in self.folder.glob("??"):
            with suppress(OSError), os.scandir(part) as entries:
                for entry in entries:
                    with suppress(OSError):
                        files.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        excess = sum(size for _, size, _ in files) - 0.75 * self.limit
        for _, size, path in sorted(files):
            if excess <= 0:
                break
            with suppress(OSError):
                os.unlink(path)
            excess -= size

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / digest[:2] / digest

    def _count(self, size: int) -> None:
        """Prune once all processes together have written an eighth of the limit: the tally's length tells."""
        tally = self.folder / "tally"
        with open(tally, "ab", buffering=0) as file:
            file.write(bytes(-(-size // _UNIT)))
            full = file.tell() * _UNIT > self.limit / 8
        if full:
            tally.unlink(missing_ok=True)
            self.prune()


def keep_file(folder: Path, url: str, version: str, fetch: Callable[[str], object]) -> Path:
    """A local copy of the file at `url`, which `fetch(path)` downloads unless this `version` is there already.

    Raises:
        OSError: the download or the writing failed; no part of it remains.
    """
    stem = hashlib.sha256(url.encode()).hexdigest()[:32]
    path = folder / f"{stem}.{hashlib.sha256(version.encode()).hexdigest()[:16]}.{url.rpartition('/')[2]}"
    try:
        os.utime(path)  # in use
    except FileNotFoundError:
        _write(path, fetch)
    for other in folder.glob(f"{stem}.*"):  # older versions, and what killed downloads left
        with suppress(FileNotFoundError):
            if other.stat().st_mtime < time.time() - _STALE_SECONDS:
                other.unlink()
    return path


def _write(path: Path, fetch: Callable[[str], object]) -> None:
    """Let `fetch` write a file beside `path` and move it there when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = mkstemp(dir=path.parent, prefix=f"{path.name.partition('.')[0]}.", suffix=".part")
    os.close(handle)
    try:
        fetch(part)
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)
