"""Where a LeRobot data set keeps its episodes: layout v2 has files for each, v3 puts many into one file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa.data.errors import DataError
from jepa.data.sources.base import need_folder

if TYPE_CHECKING:
    import pyarrow

COLUMNS = {"observation.state": "states", "action": "actions"}
"""The features that are read, and what their arrays are called here."""


@dataclass(frozen=True)
class Info:
    """What meta/info.json says."""

    major: int  # of the layout's version: 2 or 3
    fps: float  # frames per second
    cameras: tuple[str, ...]  # features that are videos
    image_cameras: tuple[str, ...]  # features that are pictures inside of parquet files
    widths: dict[str, int]  # of those features of COLUMNS that are there
    names: dict[str, Any]  # what info.json calls their numbers, by the array's name
    data_path: str  # templates of file names
    video_path: str
    chunks_size: int  # episodes per folder; v2 only


@dataclass(frozen=True)
class Place:
    """Where one episode is; files are relative to the data set."""

    index: int
    tasks: str  # in words
    data: str  # parquet file
    videos: dict[str, tuple[Any, ...]]  # camera -> its file and, in v3, first and last moment of the episode in s


def read_info(path: Path) -> Info:
    """Raises DataError if `path` is not a LeRobot data set of layout v2 or v3, or its info.json is damaged."""
    need_folder(path)
    file = path / "meta" / "info.json"
    try:
        info = json.loads(file.read_text())
        version = str(info["codebase_version"])
        features = info["features"]
        found = [column for column in COLUMNS if column in features]
        result = Info(
            major=int(version.removeprefix("v").split(".")[0]),
            fps=float(info["fps"]),
            cameras=tuple(name for name, feature in features.items() if feature["dtype"] == "video"),
            image_cameras=tuple(name for name, feature in features.items() if feature["dtype"] == "image"),
            widths={column: prod(features[column]["shape"]) for column in found},
            names={COLUMNS[column]: names for column in found if (names := features[column].get("names"))},
            data_path=info["data_path"],
            video_path=info["video_path"] or "",  # None where there is no video
            chunks_size=int(info.get("chunks_size", 1000)),
        )
    except FileNotFoundError as error:
        raise DataError(f"{path}: no meta/info.json; this is not a LeRobot data set") from error
    except KeyError as error:
        raise DataError(f"{file}: no {error}") from error
    except (AttributeError, TypeError, ValueError, OSError) as error:
        raise DataError(f"{file}: damaged ({error})") from error
    if result.major not in (2, 3):
        raise DataError(f"{path}: LeRobot version {version} is not supported; convert it to v2.1 or v3.0")
    return result


cached_info = lru_cache(maxsize=8)(read_info)
"""`read_info` for whoever reads episode after episode."""


def places(path: Path, info: Info) -> list[Place]:
    """Every episode in order; raises DataError where the lists in meta/ are missing or damaged."""
    try:
        found = list(_places_v2(path, info) if info.major == 2 else _places_v3(path, info))
    except DataError:
        raise
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path / 'meta'}: damaged list of episodes or file name ({error!r})") from error
    return sorted(found, key=lambda place: place.index)


def read_table(file: Path, columns: list[str], **filters: Any) -> "pyarrow.Table":
    """Columns of a parquet file; raises DataError where it is damaged or lacks one of them."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ModuleNotFoundError("LeRobot data need pyarrow: pip install 'openjepa[lerobot]'") from error
    try:
        return pyarrow.parquet.read_table(file, columns=columns, **filters)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{file.name} cannot be read: {str(error).splitlines()[0]}") from error


def _places_v2(path: Path, info: Info) -> Iterator[Place]:
    try:
        lines = (path / "meta" / "episodes.jsonl").read_text().splitlines()
    except OSError as error:
        raise DataError(f"{path / 'meta' / 'episodes.jsonl'} cannot be read: {error.strerror}") from error
    for line in (json.loads(line) for line in lines if line.strip()):
        index = int(line["episode_index"])
        where = {"episode_index": index, "episode_chunk": index // info.chunks_size}
        yield Place(
            index,
            "; ".join(line.get("tasks", [])),
            info.data_path.format(**where),
            {camera: (info.video_path.format(**where, video_key=camera),) for camera in info.cameras},
        )


def _places_v3(path: Path, info: Info) -> Iterator[Place]:
    parts = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    of_video = [f"videos/{camera}/{part}" for camera in info.cameras for part in parts]
    columns = ["episode_index", "tasks", "data/chunk_index", "data/file_index", *of_video]
    files = sorted((path / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    if not files:
        raise DataError(f"{path}: no meta/episodes/chunk-*/file-*.parquet; the data set is not whole")
    for row in (row for file in files for row in read_table(file, columns).to_pylist()):
        videos = {}
        for camera in info.cameras:
            chunk, file, start, end = (row[f"videos/{camera}/{part}"] for part in parts)
            name = info.video_path.format(video_key=camera, chunk_index=chunk, file_index=file)
            videos[camera] = (name, float(start), float(end))
        data = info.data_path.format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
        yield Place(row["episode_index"], "; ".join(row["tasks"] or []), data, videos)
