"""What every source of videos yields: a list of recordings, and each of them with its bytes when asked for.

A source file has three functions:

- `spec(path) -> Spec`: what it promises, without counts and sizes;
- `recordings(path) -> Iterator[Recording | Rejected]`: every recording, in an order that depends on names only, without
  reading a video; where a recording has several views, each is one, and `camera` picks those of one name;
- `load(path, recording) -> Episode`: one recording; raises DataError with the reason where it cannot be used.

Listing and loading are apart so that packing can be spread over processes and machines and be resumed. A source hands
over video bytes as they are: `pack` checks them.
"""

import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from jepa.data.errors import DataError


@dataclass(frozen=True)
class Recording:
    """One line of a source's list: cheap to make and to send to another process."""

    key: str  # stable and unique name of letters, digits, '_' and '-'; the tar members are called so
    file: str  # where it comes from, for messages
    place: tuple[Any, ...] = ()  # what `load` needs to find it: strings and numbers


@dataclass(frozen=True)
class Episode:
    """One recording: `arrays` has `actions` (T-1, A) and any other per-frame arrays (T, ...)."""

    video: bytes  # a video file, or an image file as a video of one frame
    suffix: str  # the file's suffix without the dot, in lower case
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    language: str = ""  # what the recording shows or was asked for, in words
    label: int | None = None  # class of the whole recording
    meta: dict[str, Any] = field(default_factory=dict)  # JSON-able: whatever else the source knows


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


def inside(folder: Path, name: str) -> Path:
    """`folder/name`; DataError where a name that comes with the data leads elsewhere."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"'{name}' leads out of the data set")
    return folder / name


def read_bytes(path: Path) -> bytes:
    """The file's bytes; an OSError becomes a DataError with a short reason."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
