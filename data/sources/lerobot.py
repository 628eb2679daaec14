"""LeRobot data sets of layouts v2.x and v3.0: parquet files, and per camera and episode a video or a piece of one."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jepa.data.clip import Spec
from jepa.data.errors import DataError
from jepa.data.keys import view_endings
from jepa.data.lerobot_layout import COLUMNS, Info, cached_info, places, read_info, read_table
from jepa.data.remux import cut_video
from jepa.data.sources.base import Episode, Recording, Rejected, inside, read_bytes


def spec(path: Path) -> Spec:
    """Frame rate and widths; LeRobot does not say units."""
    info = read_info(path)
    widths = {COLUMNS[column]: width for column, width in info.widths.items()}
    action_dim, state_dim = widths.get("actions", 0), widths.get("states", 0)
    return Spec(
        fps=info.fps,
        action_dim=action_dim,
        state_dim=state_dim,
        action_units=("unknown",) * action_dim,
        state_units=("unknown",) * state_dim,
    )


def recordings(path: Path, camera: str | None = None) -> Iterator[Recording | Rejected]:
    """Every episode in order, seen by each camera that is a video (or only by `camera`).

    Raises:
        DataError: not a LeRobot data set of these layouts, its lists are damaged, or it has no such camera.
    """
    info = read_info(path)
    if not info.cameras and not info.image_cameras:
        raise DataError(f"{path}: no camera among the features of meta/info.json")
    endings = view_endings(info.cameras, camera, path)
    for name in info.image_cameras if camera is None else ():
        yield Rejected(name, "image-typed cameras are not supported; convert the data set to videos")
    for place in places(path, info) if endings else ():
        for view, ending in endings.items():
            video, *piece = place.videos[view]
            yield Recording(
                f"episode_{place.index:06d}{ending}",
                f"{video} (episode {place.index})",
                (place.index, view, place.tasks, place.data, video, *piece),
            )


def load(path: Path, recording: Recording) -> Episode:
    """One camera's video of one episode; states (T, S) and actions (T-1, A) as far as there are any.

    Raises:
        DataError: a file is missing or damaged.
    """
    index, camera, tasks, data, video, *piece = recording.place
    info = cached_info(path)
    return Episode(
        video=cut_video(inside(path, video), *piece) if piece else read_bytes(inside(path, video)),
        suffix=Path(video).suffix[1:].lower(),
        arrays=_arrays(inside(path, data), index, info),
        language=tasks,
        meta={"file": video, "episode": index, "camera": camera, "names": info.names},
    )


def _arrays(file: Path, index: int, info: Info) -> dict[str, np.ndarray]:
    """The last frame's action leads to no frame and is left out."""
    columns = list(info.widths)
    if not columns:
        return {}
    one_of_many = [("episode_index", "==", index)] if info.major == 3 else None
    table = read_table(file, columns, filters=one_of_many)
    if not table.num_rows:
        raise DataError(f"{file.name} holds nothing of episode {index}")
    arrays = {}
    for column, width in info.widths.items():
        try:
            values = np.asarray(table.column(column).to_pylist(), np.float32)
            arrays[COLUMNS[column]] = values.reshape(table.num_rows, width)
        except (TypeError, ValueError) as error:
            raise DataError(f"{file.name}: '{column}' is not {width} numbers per frame") from error
    if "actions" in arrays:
        arrays["actions"] = arrays["actions"][:-1]
    return arrays
