"""Write samples to numbered WebDataset tars and tell at which bytes each part lies."""

import hashlib
import io
import json
import os
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from webdataset import TarWriter

from jepa.data.errors import DataError
from jepa.data.sources.base import Episode
from jepa.data.video import VideoInfo


class ShardWriter:
    """Writes samples to numbered tars and knows their index afterwards."""

    def __init__(self, folder: Path, limit: float) -> None:
        self.folder, self.limit = folder, limit
        self.files: list[Path] = []
        self._lines: list[dict[str, Any]] = []
        self._keys: set[str] = set()
        self._size = float("inf")  # so that the first sample opens the first shard
        self._writer: Any = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def write(self, episode: Episode, info: VideoInfo) -> None:
        """Append one sample to the current shard or, when that is full, to a new one.

        Raises:
            DataError: another sample has this key.
        """
        if episode.key in self._keys:
            raise DataError(f"key '{episode.key}' is taken by another recording; rename one")
        self._keys.add(episode.key)
        if self._size >= self.limit:
            self._open()
        parts = {episode.suffix: episode.video, "json": json.dumps(episode.meta, sort_keys=True).encode()}
        parts |= {f"{name}.npy": _npy(array) for name, array in episode.arrays.items()}
        self._size += self._writer.write({"__key__": episode.key, **parts})
        digests = {ext: hashlib.sha256(data).hexdigest() for ext, data in parts.items()}
        line = {"id": len(self._lines), "key": episode.key, "shard": self.files[-1].name, **asdict(info)}
        self._lines.append({**line, "members": digests})

    def index(self) -> list[dict[str, Any]]:
        """The lines of the index, with the offsets that a tar reader finds in the finished shards."""
        places: dict[tuple[str, str], tuple[int, int]] = {}
        for file in self.files:
            with tarfile.open(file) as tar:
                places |= {(file.name, m.name): (m.offset_data, m.size) for m in tar}
        return [
            {
                **line,
                "members": {
                    ext: [*places[line["shard"], f"{line['key']}.{ext}"], digest]
                    for ext, digest in line["members"].items()
                },
            }
            for line in self._lines
        ]

    def _open(self) -> None:
        self._close()
        self.files.append(self.folder / f"shard-{len(self.files):06d}.tar")
        self._file = self.files[-1].open("wb")
        # no time, no user: the same samples give the same bytes
        self._writer = TarWriter(self._file, user="", group="", encoder=False, mtime=0)
        self._size = 0

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._writer = None


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()
