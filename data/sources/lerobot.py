"""LeRobot data sets, layout v2.x: meta/info.json, one parquet file and one video per camera and episode."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jepa.data.clip import Spec
from jepa.data.errors import DataError
from jepa.data.sources.base import Episode, Rejected, need_folder, read_bytes

COLUMNS = {"observation.state": "states", "action": "actions"}


def spec(path: Path) -> Spec:
    """Frame rate and widths; LeRobot does not say units."""
    info = _info(path)
    dims = {name: _width(info, column) for column, name in COLUMNS.items()}
    return Spec(
        fps=float(info["fps"]),
        action_dim=dims["actions"],
        state_dim=dims["states"],
        action_units=("unknown",) * dims["actions"],
        state_units=("unknown",) * dims["states"],
    )


def episodes(path: Path, camera: str | None = None) -> Iterator[Episode | Rejected]:
    """Every episode in order, seen by `camera` (a video key; None: the first).

    Raises:
        DataError: not a LeRobot v2 folder, or no such camera.
    """
    info = _info(path)
    cameras = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    if not cameras:
        raise DataError(f"{path}: no video feature in meta/info.json")
    camera = camera or cameras[0]
    if camera not in cameras:
        raise DataError(f"{path}: no camera '{camera}'; there are: {', '.join(cameras)}")
    columns = [column for column in COLUMNS if _width(info, column)]
    for line in _episode_lines(path):
        place = {
            "episode_index": line["episode_index"],
            "episode_chunk": line["episode_index"] // info["chunks_size"],
            "video_key": camera,
        }
        video = info["video_path"].format(**place)
        try:
            arrays = _arrays(path / info["data_path"].format(**place), columns)
            yield Episode(
                key=f"episode_{line['episode_index']:06d}",
                file=video,
                video=read_bytes(path / video),
                suffix=Path(video).suffix.removeprefix("."),
                fps=float(info["fps"]),
                arrays=arrays,
                meta={"file": video, "camera": camera, "tasks": line.get("tasks", [])},
            )
        except DataError as error:
            yield Rejected(video, str(error))


def _arrays(path: Path, columns: list[str]) -> dict[str, np.ndarray]:
    """States (T, S) and actions (T-1, A): the last frame's action leads to no frame and is left out."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ModuleNotFoundError("LeRobot data need pyarrow: pip install 'openjepa[lerobot]'") from error
    try:
        table = pyarrow.parquet.read_table(path, columns=columns)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path.name} cannot be read: {str(error).splitlines()[0]}") from error
    arrays = {COLUMNS[c]: np.asarray(table.column(c).to_pylist(), np.float32) for c in columns}
    if "actions" in arrays:
        arrays["actions"] = arrays["actions"][:-1]
    return arrays


def _info(path: Path) -> dict[str, Any]:
    need_folder(path)
    try:
        info = json.loads((path / "meta" / "info.json").read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no meta/info.json; this is not a LeRobot data set") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path / 'meta/info.json'}: damaged ({error})") from error
    if not str(version := info.get("codebase_version", "?")).startswith("v2."):
        raise DataError(f"{path}: LeRobot version {version} is not supported; convert it to v2.1")
    if missing := {"fps", "features", "chunks_size", "data_path", "video_path"} - set(info):
        raise DataError(f"{path / 'meta/info.json'}: no '{min(missing)}'")
    return info


def _episode_lines(path: Path) -> list[dict[str, Any]]:
    file = path / "meta" / "episodes.jsonl"
    try:
        lines = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        return sorted(lines, key=lambda line: line["episode_index"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error


def _width(info: dict[str, Any], column: str) -> int:
    return int(info["features"][column]["shape"][0]) if column in info["features"] else 0
