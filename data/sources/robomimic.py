"""One robomimic HDF5 file: demonstrations with pictures as arrays, which become videos here."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jepa.data.clip import Spec
from jepa.data.errors import DataError
from jepa.data.hdf5 import open_hdf5, read_array
from jepa.data.keys import plain_key, view_endings
from jepa.data.remux import encode_images
from jepa.data.sources.base import Episode, Recording

if TYPE_CHECKING:
    import h5py

STATES = {"robot0_eef_pos": "m", "robot0_eef_quat": "quaternion", "robot0_gripper_qpos": "unknown"}
"""Parts of the state and the unit of their numbers; a gripper's joints may turn or slide."""

FPS = 20.0  # robosuite's control rate, where the file does not say


def spec(path: Path) -> Spec:
    """Frame rate and widths, by the first demonstration."""
    with _open(path) as h5:
        demo = h5["data"][_names(h5)[0]]
        widths = {part: demo["obs"][part].shape[1] for part in STATES if part in demo["obs"]}
        action_dim = demo["actions"].shape[1]
        return Spec(
            fps=_fps(h5),
            action_dim=action_dim,
            state_dim=sum(widths.values()),
            action_units=("unknown",) * action_dim,  # commands to a controller, most often scaled to -1..1
            state_units=tuple(STATES[part] for part, width in widths.items() for _ in range(width)),
        )


def recordings(path: Path, camera: str | None = None) -> Iterator[Recording]:
    """Every demonstration in order, seen by each camera (or only by `camera`, an `..._image` of the observations).

    Raises:
        DataError: not such a file, no pictures, or no such camera.
    """
    with _open(path) as h5:
        names = _names(h5)
        cameras = sorted(name for name in h5["data"][names[0]]["obs"] if name.endswith("_image"))
    if not cameras:
        raise DataError(f"{path}: no pictures (obs/*_image); write them with robomimic's dataset_states_to_obs first")
    endings = view_endings(cameras, camera, path)
    for name in names:
        for view, ending in endings.items():
            yield Recording(plain_key(name) + ending, f"{path.name}/{name} ({view})", (name, view))


def load(path: Path, recording: Recording) -> Episode:
    """Pictures (T, h, w, 3) as H.264; states (T, S), if any; actions (T-1, A): the last one leads to no picture.

    Raises:
        DataError: something is missing or damaged.
    """
    name, view = recording.place
    with _open(path) as h5:
        demo = h5["data"][name]
        images, actions = read_array(demo, f"obs/{view}"), read_array(demo, "actions")
        parts = [read_array(demo, f"obs/{part}") for part in STATES if part in demo["obs"]]
        fps = _fps(h5)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise DataError(f"obs/{view}: {images.dtype} {images.shape}; must be uint8 (T, h, w, 3)")
    if wrong := [array.shape for array in (actions, *parts) if array.ndim != 2 or len(array) != len(images)]:
        raise DataError(f"an array of shape {wrong[0]}, but there are {len(images)} pictures")
    arrays = {"actions": actions[:-1].astype(np.float32)}
    if parts:
        arrays["states"] = np.concatenate(parts, 1, dtype=np.float32)
    return Episode(encode_images(images, fps), "mp4", arrays, meta={"file": path.name, "demo": name, "camera": view})


def _open(path: Path) -> AbstractContextManager["h5py.File"]:
    if not path.is_file():
        raise DataError(f"'{path}' is not a file; give one .hdf5 file of robomimic")
    return open_hdf5(path)


def _names(h5: "h5py.File") -> list[str]:
    """The demonstrations by their numbers: demo_2 comes before demo_10."""
    names = sorted(h5["data"], key=lambda name: (len(name), name))
    if not names:
        raise DataError(f"{Path(h5.filename).name}: no demonstrations in 'data'")
    return names


def _fps(h5: "h5py.File") -> float:
    try:
        environment = json.loads(h5["data"].attrs.get("env_args", "{}"))
        fps = float(environment.get("env_kwargs", {}).get("control_freq", FPS))
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{Path(h5.filename).name}: damaged env_args ({error})") from error
    if not 0 < fps < 1000:
        raise DataError(f"{Path(h5.filename).name}: control_freq {fps:g} in env_args is no frame rate")
    return fps
