"""Episodes recorded by `jepa collect`: one MP4 and one NPZ each, described by dataset.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jepa.data.clip import Spec
from jepa.data.errors import DataError
from jepa.data.keys import plain_key
from jepa.data.sources.base import Episode, Recording, need_folder, read_bytes

FORMAT = "jepa-episodes-1"


def spec(path: Path) -> Spec:
    """Widths, units and label names of dataset.json; raises DataError if that is missing or damaged."""
    info = _info(path)
    try:
        return Spec(
            fps=float(info["fps"]),
            action_dim=int(info["action_dim"]),
            state_dim=int(info["state_dim"]),
            action_units=tuple(info["action_units"]),
            state_units=tuple(info["state_units"]),
            labels={name: tuple(classes) for name, classes in info.get("labels", {}).items()},
            extra={name: tuple(units) for name, units in info.get("extra", {}).items()},
        )
    except KeyError as error:
        raise DataError(f"{path / 'dataset.json'}: no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path / 'dataset.json'}: damaged ({error})") from error


def recordings(path: Path) -> Iterator[Recording]:
    """Every episode_*.mp4 of the folder, by name."""
    _info(path)
    for file in sorted(path.glob("episode_*.mp4")):
        yield Recording(plain_key(file.stem), file.name)


def load(path: Path, recording: Recording) -> Episode:
    """The video with the arrays of its NPZ."""
    file = path / recording.file
    return Episode(read_bytes(file), "mp4", _arrays(file.with_suffix(".npz")), meta={"file": recording.file})


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a damaged NPZ raises whatever zipfile, zlib or numpy stumble over
        raise DataError(f"{path.name} cannot be read: {error}") from error


def _info(path: Path) -> dict[str, Any]:
    need_folder(path)
    file = path / "dataset.json"
    try:
        info = json.loads(file.read_text())
        found = info["format"]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no dataset.json; this is not a folder of `jepa collect`") from error
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise DataError(f"{file}: damaged ({error})") from error
    if found != FORMAT:
        raise DataError(f"{file}: format '{found}' is not {FORMAT}")
    return info
