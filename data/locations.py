"""Which places may be read from and which names may be asked for there; nothing is opened here."""

import re
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from jepa.data.errors import DataError

_REMOTE = ("s3", "gs", "gcs", "hf", "memory")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ALLOWED = "a folder, file://, s3://, gs://, gcs://, hf://, https://, memory://, or http:// to localhost"


def local_folder(location: str | Path) -> Path | None:
    """The folder that `location` names if it is a path or begins with `file://`, else None.

    Raises:
        DataError: a `file://` of another machine.
    """
    if isinstance(location, Path) or not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", location):
        return Path(location)
    if not location.lower().startswith("file://"):
        return None
    parts = urlsplit(location)
    if parts.netloc not in ("", "localhost"):
        raise DataError(f"'{location}': file:// of another machine; write file:///path")
    return Path(unquote(parts.path))


def checked_url(location: str) -> str:
    """The remote `location` without its last slash, if it is one that may be read. Opens nothing.

    Raises:
        DataError: another scheme, a chain of file systems, or parts that no folder of shards has.
    """
    scheme, colon, rest = location.partition("://")
    parts = _split(location)
    if not (parts and colon and location.isprintable()) or "::" in parts.path:
        raise DataError(f"{location!r}: not a place for shards; allowed are {_ALLOWED} (a folder 'a:b' is './a:b')")
    if parts.scheme not in _REMOTE and not may_fetch(location):
        raise DataError(f"'{location}': shards are not read from there; allowed are {_ALLOWED}")
    if "@" in parts.netloc or re.search(r"[?#\\]", location):
        raise DataError(
            f"'{location}': leave out user, password, '?', '#' and '\\'; only a folder's address can be read"
        )
    return f"{scheme.lower()}://{rest}".rstrip("/")


def may_fetch(url: str) -> bool:
    """Whether `url` is https, or http that does not leave this machine."""
    parts = _split(url)
    return parts is not None and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK))


def checked_name(name: str, location: str) -> str:
    """`name`, if it stays inside the folder and means the same in a path and in a URL.

    Raises:
        DataError: it does not; `location` is where it was asked for.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(c in name for c in "\\:?#%") or not name.isprintable():
        raise DataError(f"{location}: {name!r} is not the name of a file in this folder; pack the data again")
    return name


def _split(location: str) -> SplitResult | None:
    try:
        parts = urlsplit(location)
        _ = parts.hostname, parts.port  # parsed when asked for
    except ValueError:
        return None
    return parts
