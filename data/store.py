"""Reads the files of a folder of shards, local or remote, with retries; what stays unreadable is one line."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa.data.cache import RangeCache, keep_file
from jepa.data.errors import DataError
from jepa.data.locations import checked_name, checked_url, local_folder
from jepa.data.remote import filesystem_class, open_filesystem
from jepa.data.retry import Retry, complete

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def open_store(
    location: str | Path, *, cache_gb: float = 8.0, cache_dir: Path | None = None
) -> "LocalStore | RemoteStore":
    """The folder at `location`: a path, `file://`, or a remote URL of an allowed scheme.

    Byte ranges of remote files are kept on disk, at most `cache_gb` (10⁹ bytes) of them, 0: none; whole files that
    `local` hands out come on top. The place is `cache_dir`, else the environment variable JEPA_CACHE, else
    `~/.cache/jepa/shards`.

    Raises:
        DataError: no such folder, a location that may not be read, a package is missing, or a wrong `cache_gb`.
    """
    folder = local_folder(location)
    if folder is not None:
        if not os.path.isdir(folder):
            raise DataError(f"no such folder of shards: '{folder}'; make one with `jepa pack`")
        return LocalStore(folder)
    url = checked_url(str(location))
    filesystem_class(url)  # a missing package is told now, not in the first worker
    if not 0 <= cache_gb < float("inf"):
        raise DataError(f"cache_gb: {cache_gb} is not a size in GB; 0 keeps nothing")
    cache = cache_dir or Path(os.environ.get("JEPA_CACHE") or "~/.cache/jepa/shards").expanduser()
    return RemoteStore(url, cache, int(cache_gb * 1e9))


class LocalStore:
    """A folder on this machine or on a network file system. Every method raises DataError for what it cannot read."""

    def __init__(self, folder: Path) -> None:
        self.location = str(folder)
        self._folder = folder
        self._retry = Retry(self.location, OSError)

    def read(self, name: str) -> bytes:
        """All bytes of the file `name`."""
        return self._retry(name, self._path(name).read_bytes)

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """The `stop - start` bytes of the file `name` from offset `start` on."""
        path = self._path(name)
        _check_range(f"{self.location}/{name}", start, stop)

        def read() -> bytes:
            with open(path, "rb") as file:
                file.seek(start)
                return complete(file.read(stop - start), stop - start)

        return self._retry(name, read)

    def local(self, name: str) -> Path:
        """The path of the file `name`, which exists."""
        path = self._path(name)
        self._retry(name, path.stat)
        return path

    def sizes(self) -> dict[str, int]:
        """Name -> bytes of the files directly in the folder."""

        def scan() -> dict[str, int]:
            with os.scandir(self._folder) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}

        return self._retry("", scan)

    def forget(self, name: str, start: int, stop: int) -> None:
        """Nothing: no range of a local file is kept."""

    def _path(self, name: str) -> Path:
        return self._folder / checked_name(name, self.location)


class RemoteStore:
    """A folder behind a URL. Every method raises DataError for what it cannot read.

    It may be pickled and forked at any time: each process opens connections of its own at its first read.
    """

    def __init__(self, url: str, folder: Path, limit: int) -> None:
        self.location = url
        self._folder = folder
        self._cache = RangeCache(folder / "ranges", limit) if limit else None
        # Exception: the file systems share no class for what can go wrong on the way
        self._retry = Retry(url, Exception)
        # by process; a child keeps its parent's and leaves it alone, since closing it would disturb the parent
        self._filesystems: dict[int, AbstractFileSystem] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_filesystems": {}}

    def read(self, name: str) -> bytes:
        """All bytes of the file `name`; not kept on disk."""
        url = self._url(name)
        return self._retry(name, lambda: self._filesystem().cat_file(url))

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """The `stop - start` bytes of the file `name` from offset `start` on, which are kept on disk."""
        url, size = self._url(name), stop - start
        _check_range(url, start, stop)
        key = f"{url} {start}-{stop}"
        if self._cache and (kept := self._cache.get(key, size)) is not None:
            return kept
        exact = {"cache_type": "none"} if url.startswith("hf://") else {}  # else it reads megabytes ahead
        data: bytes = self._retry(
            name, lambda: complete(self._filesystem().cat_file(url, start=start, end=stop, **exact), size)
        )
        if self._cache:
            self._cache.put(key, data)
        return data

    def local(self, name: str) -> Path:
        """The path of a local copy of the file `name`, downloaded unless the same version is there already."""
        url = self._url(name)

        def download() -> Path:
            files = self._filesystem()
            info = files.info(url)
            if info["type"] != "file":
                raise FileNotFoundError(url)

            def fetch(path: str) -> None:
                files.get_file(url, path)
                if info["size"] not in (None, got := os.path.getsize(path)):
                    raise OSError(f"cut off: {got} of {info['size']} bytes")

            # where a server redirects to may change with every request
            version = {key: value for key, value in info.items() if key != "url"}
            return keep_file(self._folder / "files", url, str(version), fetch)

        return self._retry(name, download)

    def sizes(self) -> dict[str, int] | None:
        """Name -> bytes of the files directly in the folder; None where there is no listing (http and https)."""
        if self.location.startswith("http"):
            return None
        entries = self._retry("", lambda: self._filesystem().ls(self.location, detail=True))
        return {entry["name"].rpartition("/")[2]: int(entry["size"]) for entry in entries if entry["type"] == "file"}

    def forget(self, name: str, start: int, stop: int) -> None:
        """Drop the kept range: it is damaged, and the next `read_range` fetches it again."""
        if self._cache:
            self._cache.forget(f"{self._url(name)} {start}-{stop}")

    def _url(self, name: str) -> str:
        return f"{self.location}/{checked_name(name, self.location)}"

    def _filesystem(self) -> "AbstractFileSystem":
        if os.getpid() not in self._filesystems:
            self._filesystems[os.getpid()] = open_filesystem(self.location)
        return self._filesystems[os.getpid()]


def _check_range(where: str, start: int, stop: int) -> None:
    if not 0 <= start <= stop:
        raise DataError(f"{where}: bytes {start} to {stop} are no range; the index is damaged, pack the data again")
