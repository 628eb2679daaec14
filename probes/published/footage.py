"""What the video files of a benchmark are: every one is looked at once, and what cannot be read is known beforehand."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepa import logs
from jepa.data.errors import DataError
from jepa.data.parallel import in_order
from jepa.data.video import VideoInfo, inspect
from jepa.probes.annotations.base import Sample

Record = dict[str, Any]
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class Footage:
    """`frames` frames of a file, or of a folder of images, from its frame `first` on; `times` (s) where uneven."""

    path: str
    first: int
    frames: int
    fps: float
    times: np.ndarray | None
    sha256: str  # of the file; of names and sizes, for a folder


def survey(
    paths: Iterable[Path], file: Path, workers: int, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Record]:
    """By path what `inspect` finds: frames, fps, times and sha256, or an `error`; kept as lines of `file`.

    A file that has the size and time of change it had is not read again; where none is to be read, nothing is written,
    so that several processes can ask at once. `progress` is told how many are done.
    """
    wanted = list(dict.fromkeys(str(path) for path in paths))
    known = {record["path"]: record for record in logs.read(file)}
    stamps = {path: _stamp(Path(path)) for path in wanted}
    kept = {path: r for path in wanted if (r := known.get(path)) and r["stamp"] == stamps[path]}
    todo = [path for path in wanted if path not in kept]
    if not todo:
        progress(len(wanted))
        return {path: kept[path] for path in wanted}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text("".join(json.dumps(record) + "\n" for record in kept.values()))  # without a line cut by a kill
    partial.replace(file)
    found = in_order(_look, todo, workers, _crashed) if workers > 0 else map(_look, todo)
    with file.open("a") as lines:
        for done, record in enumerate(found, start=len(kept) + 1):
            kept[record["path"]] = record | {"stamp": stamps[record["path"]]}
            lines.write(json.dumps(kept[record["path"]]) + "\n")
            progress(done)
    progress(len(wanted))
    return {path: kept[path] for path in wanted}


def footage_of(sample: Sample, record: Record) -> Footage:
    """The part of a surveyed file that a sample labels.

    Raises:
        DataError: the file cannot be read, or ends before the part begins.
    """
    if "error" in record:
        raise DataError(record["error"])
    frames, fps = record["frames"], record["fps"]
    times = None if record["times"] is None else np.array(record["times"])
    first, stop = 0, frames
    if sample.start is not None or sample.stop is not None:
        first = _frame_at(sample.start or 0.0, fps, times)
        stop = frames if sample.stop is None else min(frames, max(first + 1, _frame_at(sample.stop, fps, times)))
        if first >= frames:
            raise DataError(f"has {frames} frames, and no part from {sample.start:g} s on")
    part = None if times is None else times[first:stop] - times[first]
    return Footage(record["path"], first, stop - first, fps, part, record["sha256"])


def stills(folder: Path) -> list[Path]:
    """The images of a folder, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)


def digest(footage: Sequence[Footage], labels: Sequence[object]) -> str:
    """A name for these parts of these files with these labels, wherever the files lie."""
    rows = [(f.sha256, f.first, f.frames, label) for f, label in zip(footage, labels, strict=True)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _look(path: str) -> Record:
    try:
        if Path(path).is_dir():
            images = [(image.name, image.stat().st_size) for image in stills(Path(path))]
            if not images:
                raise DataError("a folder without images")
            info, data = VideoInfo(len(images), 0.0, 0, 0), json.dumps(images).encode()
        else:
            data = Path(path).read_bytes()
            info = inspect(data)
    except (DataError, OSError) as error:
        return {"path": path, "error": (error.strerror or str(error)) if isinstance(error, OSError) else str(error)}
    times = None if info.times is None else info.times.tolist()
    sha256 = hashlib.sha256(data).hexdigest()
    return {"path": path, "frames": info.frames, "fps": info.fps, "times": times, "sha256": sha256}


def _crashed(path: str) -> Record:
    return {"path": path, "error": "the decoder crashed"}


def _stamp(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns]


def _frame_at(seconds: float, fps: float, times: np.ndarray | None) -> int:
    if times is not None:
        return int(np.searchsorted(times, seconds - 1e-6))
    if fps <= 0:
        raise DataError("a folder of images has no frame rate: label whole folders")
    return round(seconds * fps)
