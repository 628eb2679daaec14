"""Raw DROID 1.0.1: one folder per trajectory with metadata, trajectory.h5 and an MP4 per camera."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jepa.data.clip import Spec
from jepa.data.errors import DataError
from jepa.data.hdf5 import open_hdf5, read_array
from jepa.data.keys import view_endings
from jepa.data.sources.base import Episode, Recording, Rejected, inside, need_folder, read_bytes, safe_key

CAMERAS = ("left", "right", "wrist")
POSE_UNITS = ("m", "m", "m", "rad", "rad", "rad")
UNITS = (*POSE_UNITS, "closedness")
LANGUAGE = ("language_instruction", "language_instruction1", "current_task")  # from the most to the least precise


def spec(path: Path) -> Spec:
    """Poses and their changes in the units of V-JEPA 2-AC, and where the camera stands."""
    need_folder(path)
    return Spec(action_dim=7, state_dim=7, action_units=UNITS, state_units=UNITS, extra={"extrinsics": POSE_UNITS})


def recordings(path: Path, camera: str | None = None) -> Iterator[Recording | Rejected]:
    """Every camera (or only `camera`: left, right, wrist) of every folder below `path` that has a trajectory.h5.

    Raises:
        DataError: no such folder or camera.
    """
    need_folder(path)
    endings = view_endings(CAMERAS, camera, path)
    for folder in sorted(file.parent for file in path.rglob("trajectory.h5")):
        place = folder.relative_to(path).as_posix()
        name = path.resolve().name if folder == path else place
        for view, ending in endings.items():
            yield Recording(safe_key(name) + ending, f"{name} ({view})", (place, view))


def load(path: Path, recording: Recording) -> Episode:
    """One camera's video; states (T, 7): xyz, extrinsic xyz Euler angles, closedness; actions (T-1, 7) lead from
    each state to the next; extrinsics (T, 6): the camera's pose in the robot's frame, of its left lens.

    Raises:
        DataError: something is missing or damaged, or the arrays differ in length.
    """
    place, view = recording.place
    folder = path / place
    metadata = _metadata(folder)
    try:
        video = metadata[f"{view}_mp4_path"].rpartition("recordings/MP4/")[2]
    except (KeyError, AttributeError) as error:
        raise DataError(f"the metadata name no {view}_mp4_path") from error
    mp4 = inside(folder / "recordings" / "MP4", video)
    states, extrinsics = _trajectory(folder / "trajectory.h5", f"{mp4.stem}_left")
    return Episode(
        video=read_bytes(mp4),
        suffix="mp4",
        arrays={"states": states.astype(np.float32), "actions": _changes(states), "extrinsics": extrinsics},
        language=next((text for name in LANGUAGE if (text := metadata.get(name))), ""),
        meta={"file": mp4.relative_to(path).as_posix(), "camera": view, "uuid": metadata.get("uuid")},
    )


def _metadata(folder: Path) -> dict[str, Any]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError("no metadata (*.json) beside trajectory.h5")
    try:
        metadata = json.loads(files[0].read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{files[0].name} cannot be read: {error}") from error
    if not isinstance(metadata, dict):
        raise DataError(f"{files[0].name} holds no metadata")
    return metadata


def _trajectory(file: Path, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """States (T, 7) float64 and extrinsics (T, 6) float32."""
    with open_hdf5(file) as h5:
        pose = read_array(h5, "observation/robot_state/cartesian_position")
        closedness = read_array(h5, "observation/robot_state/gripper_position")
        extrinsics = read_array(h5, f"observation/camera_extrinsics/{camera}")
    steps = len(closedness) if closedness.ndim == 1 else 0
    if steps < 2 or pose.shape != (steps, 6) or extrinsics.shape != (steps, 6):
        shapes = f"cartesian_position {pose.shape}, gripper_position {closedness.shape}, {camera} {extrinsics.shape}"
        raise DataError(f"trajectory.h5: {shapes}; must be (T, 6), (T), (T, 6) with T > 1")
    return np.concatenate([pose, closedness[:, None]], 1, dtype=np.float64), extrinsics.astype(np.float32)


def _changes(states: np.ndarray) -> np.ndarray:
    """Actions (T-1, 7) float32: R becomes ΔR·R, everything else is added."""
    from scipy.spatial.transform import Rotation

    rotations = Rotation.from_euler("xyz", states[:, 3:6])
    actions = np.diff(states, axis=0)
    actions[:, 3:6] = (rotations[1:] * rotations[:-1].inv()).as_euler("xyz")
    return actions.astype(np.float32)
