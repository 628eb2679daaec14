"""Write the tars of a data set, one block of recordings each, with the lines of the index that belong to it.

A block is finished once its JSON file is there: `blocks/000012.json` is written last. So a killed pack loses the block
that was being written and nothing else, and blocks may be packed on different machines.
"""

import hashlib
import io
import json
import os
import re
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from webdataset import TarWriter

from jepa.data.clip import Spec
from jepa.data.errors import DataError
from jepa.data.sources.base import Episode, Recording, Rejected
from jepa.data.video import VideoInfo

BLOCKS, DATA = "blocks", "data"  # of an unfinished pack: what is known of its shards, and they themselves
TIMES = "times"  # the array with the frames' times (s), where their rate varies
TAKEN = {TIMES, "frames", "valid", "epoch", "sample_id", "label"}  # what clips have of their own


@dataclass(frozen=True)
class Packed:
    """A recording that was checked and is ready to be written. `looks` is its hash for finding near-duplicates."""

    recording: Recording
    episode: Episode
    info: VideoInfo
    looks: str = ""


def write_block(folder: Path, number: int, items: list[Packed | Rejected]) -> None:
    """Write one block: its tar, if anything in it can be used, and then its JSON file."""
    packed = [item for item in items if isinstance(item, Packed)]
    block: dict[str, Any] = {
        "shard": None,
        "samples": [],
        "rejected": [asdict(item) for item in items if isinstance(item, Rejected)],
        "moments": {name: _moments([p.episode.arrays.get(name) for p in packed]) for name in ("actions", "states")},
    }
    if packed:
        path = folder / DATA / f"shard-{number:06d}.tar"
        block["samples"] = _write_tar(path, packed)
        block["shard"] = [path.name, path.stat().st_size, file_sha256(path)]
    write_whole(block_path(folder, number), json.dumps(block).encode())


def block_path(folder: Path, number: int) -> Path:
    """Where the JSON file of a block is."""
    return folder / BLOCKS / f"{number:06d}.json"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole or not at all, also after a crash."""
    temporary = beside(path)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def beside(path: Path) -> Path:
    """A new name for a file that is not finished; process numbers repeat from machine to machine."""
    return path.with_name(f"{path.name}.{uuid4().hex}.tmp")


def file_sha256(path: Path) -> str:
    """Digest of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def _write_tar(path: Path, items: list[Packed]) -> list[dict[str, Any]]:
    """The lines of the index, with the offsets that a tar reader finds in the finished shard."""
    temporary = beside(path)
    lines = []
    with temporary.open("wb") as file:
        # no time, no user: the same samples give the same bytes
        with TarWriter(file, user="", group="", encoder=False, mtime=0) as writer:
            for item in items:
                parts = _parts(item)
                writer.write({"__key__": item.recording.key, **parts})
                lines.append(_line(item, {ext: hashlib.sha256(data).hexdigest() for ext, data in parts.items()}))
        file.flush()
        os.fsync(file.fileno())
    with tarfile.open(temporary) as tar:
        places = {member.name: (member.offset_data, member.size) for member in tar}
    for line in lines:
        members = line["members"]
        line["members"] = {ext: [*places[f"{line['key']}.{ext}"], digest] for ext, digest in members.items()}
    temporary.replace(path)
    return lines


def _parts(item: Packed) -> dict[str, bytes]:
    episode = item.episode
    meta = {"file": item.recording.file, "language": episode.language, "label": episode.label, **episode.meta}
    parts = {episode.suffix: episode.video, "json": json.dumps(meta, sort_keys=True).encode()}
    parts |= {f"{name}.npy": _npy(array) for name, array in episode.arrays.items()}
    if item.info.times is not None:
        parts[f"{TIMES}.npy"] = _npy(item.info.times)
    return parts


def _line(item: Packed, digests: dict[str, str]) -> dict[str, Any]:
    info = {name: getattr(item.info, name) for name in ("frames", "fps", "width", "height", "rotation")}
    label = -1 if item.episode.label is None else item.episode.label
    more = {"looks": item.looks} if item.looks else {}
    return {"key": item.recording.key, "file": item.recording.file, **info, "label": label, "members": digests, **more}


def _moments(arrays: list[np.ndarray | None]) -> dict[str, Any] | None:
    """Count, mean, sum of squared deviations and bounds of rows, from which blocks are put together."""
    rows = [np.asarray(a, np.float64) for a in arrays if a is not None and a.ndim == 2 and len(a)]
    if not rows:
        return None
    x = np.concatenate(rows)
    values = {"mean": x.mean(0), "m2": ((x - x.mean(0)) ** 2).sum(0), "min": x.min(0), "max": x.max(0)}
    return {"count": len(x), **{name: value.tolist() for name, value in values.items()}}


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def check_arrays(arrays: dict[str, np.ndarray], frames: int, promised: Spec) -> None:
    """Raises DataError unless all that is promised is there, with names to use and a row of finite numbers a frame.

    Actions have one fewer.
    """
    dims = {"actions": promised.action_dim, "states": promised.state_dim}
    wanted = (
        [name for name, dim in dims.items() if dim] + sorted(promised.labels.keys() - {"label"}) + [*promised.extra]
    )
    if missing := [name for name in wanted if name not in arrays]:
        raise DataError(f"no {missing[0]}")
    for name, array in arrays.items():
        if name in TAKEN or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", name):
            raise DataError(
                f"array '{name}': choose another name, of letters, digits and '_', and none of {sorted(TAKEN)}"
            )
        rows = frames - (name == "actions")
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise DataError(f"{name}: not finite numbers (dtype {array.dtype})")
        if array.ndim < 1 or len(array) != rows:
            raise DataError(f"{name}: shape {array.shape}, but the video's {frames} frames need {rows} rows")
        if name in dims and array.shape[1:] != (dims[name],):
            raise DataError(f"{name}: shape {array.shape}, but rows of {dims[name]} are promised")
        if name in promised.labels and array.ndim != 1:
            raise DataError(f"{name}: shape {array.shape}, but one class a frame is promised")
        if name in promised.extra and array.shape[1:] != (len(promised.extra[name]),):
            raise DataError(f"{name}: shape {array.shape}, but rows of {len(promised.extra[name])} are promised")
