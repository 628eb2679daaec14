"""Episodes recorded by `jepa collect`: one MP4 and one NPZ each, described by dataset.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jepa.data.clip import Spec
from jepa.data.errors import DataError
from jepa.data.sources.base import Episode, Rejected, need_folder, read_bytes

FORMAT = "jepa-episodes-1"


def spec(path: Path) -> Spec:
    """Widths, units and label names of dataset.json."""
    info = _info(path)
    return Spec(
        fps=float(info["fps"]),
        action_dim=int(info["action_dim"]),
        state_dim=int(info["state_dim"]),
        action_units=tuple(info["action_units"]),
        state_units=tuple(info["state_units"]),
        labels={name: tuple(classes) for name, classes in info.get("labels", {}).items()},
        extra={name: tuple(units) for name, units in info.get("extra", {}).items()},
    )


def episodes(path: Path) -> Iterator[Episode | Rejected]:
    """Every episode_*.mp4 of the folder with the arrays of its NPZ, by name."""
    fps = float(_info(path)["fps"])
    for file in sorted(path.glob("episode_*.mp4")):
        try:
            yield Episode(file.stem, file.name, read_bytes(file), "mp4", fps, _arrays(file.with_suffix(".npz")))
        except DataError as error:
            yield Rejected(file.name, str(error))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a damaged NPZ raises whatever zipfile, zlib or numpy stumble over
        raise DataError(f"{path.name} cannot be read: {error}") from error


def _info(path: Path) -> dict[str, Any]:
    need_folder(path)
    try:
        info = json.loads((path / "dataset.json").read_text())
        if info["format"] != FORMAT:
            raise DataError(f"{path / 'dataset.json'}: format '{info['format']}' is not {FORMAT}")
        if missing := {"fps", "action_dim", "state_dim", "action_units", "state_units"} - set(info):
            raise DataError(f"{path / 'dataset.json'}: no '{min(missing)}'")
        return info
    except FileNotFoundError as error:
        raise DataError(f"{path}: no dataset.json; this is not a folder of `jepa collect`") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{path / 'dataset.json'}: damaged ({error})") from error
