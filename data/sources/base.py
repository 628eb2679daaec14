"""What every source of videos yields: recordings, and files it cannot use with the reason.

A source file has `spec(path) -> Spec` (what it promises, without counts and sizes) and
`episodes(path) -> Iterator[Episode | Rejected]`, in an order that depends on names only. A source may take
`camera` where a recording has several views. It hands over video bytes as they are: `pack` checks them.
"""

import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from jepa.data.errors import DataError


@dataclass(frozen=True)
class Episode:
    """One recording: `arrays` has `actions` (T-1, A) and any other per-frame arrays (T, ...)."""

    key: str  # stable name of letters, digits, '_' and '-'; the tar members are called so
    file: str  # where it comes from, for messages
    video: bytes
    suffix: str  # the video file's suffix without the dot
    fps: float | None = None  # None: the video's own
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)  # JSON-able


@dataclass(frozen=True)
class Rejected:
    """A file that cannot be used."""

    file: str
    reason: str


def safe_key(name: str) -> str:
    """A key for any file name: readable, safe in a tar, and different for different names."""
    readable = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[-48:]
    return f"{readable}-{sha256(name.encode(errors='surrogateescape')).hexdigest()[:12]}"


def need_folder(path: Path) -> None:
    """Raises DataError if `path` is not a folder."""
    if not path.is_dir():
        raise DataError(f"no such folder: '{path}'")


def read_bytes(path: Path) -> bytes:
    """The file's bytes; an OSError becomes a DataError with a short reason."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
