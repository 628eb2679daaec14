"""Keys of recordings from names that a data set gives them itself."""

import re
from collections.abc import Sequence
from pathlib import Path

from jepa.data.errors import DataError
from jepa.data.sources.base import safe_key


def plain_key(name: str) -> str:
    """`name` itself where it can be a key, else `safe_key` of it."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else safe_key(name)


def view_endings(cameras: Sequence[str], camera: str | None, path: Path) -> dict[str, str]:
    """The cameras to pack (all, or only `camera`) and what each adds to the keys of its recordings.

    A data set's only camera adds nothing. The endings do not depend on `camera`, so that keys stay what they are.

    Raises:
        DataError: the data set at `path` has no such camera.
    """
    if camera is not None and camera not in cameras:
        raise DataError(f"{path}: no camera '{camera}'; there are: {', '.join(cameras) or 'none'}")
    names = [re.sub(r"[^A-Za-z0-9]+", "_", name) for name in cameras]
    if len(set(names)) < len(cameras):  # as for `a.b` and `a_b`
        names = [safe_key(name) for name in cameras]
    endings = {name: f"__{safe}" if len(cameras) > 1 else "" for name, safe in zip(cameras, names, strict=True)}
    return endings if camera is None else {camera: endings[camera]}
