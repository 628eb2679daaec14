"""Labels of one's own for episodes that are packed already: a safetensors file with a class or value for each frame.

A tensor is named `ARRAY/KEY`: the name that a task reads it by (such as `phase`), and the key of the episode in the
shards. It is (T) whole numbers, the classes, below 0 where a frame has none, or (T, O) floating values, NaN where a
frame has none, T being the episode's frames. The header may name the classes: under `classes`, a JSON list.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jepa.data.index import Manifest
from jepa.probes.kinds.base import ProbeError

CLASSES, VALUES = ("skill", "phase"), ("states", "object_pos")
"""Arrays that the tasks read, by what they hold; any other may hold either."""

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Labels:
    """Per-frame `arrays`, by name and by the key of the episode; the names of the `classes` where they are given."""

    arrays: dict[str, dict[str, Tensor]]  # (T) int64 or (T, O) float32
    classes: tuple[str, ...]
    sha256: str  # of the file

    def of(self, keys: Sequence[str], frame_ids: Tensor) -> dict[str, Tensor]:
        """The arrays (B, T, ...) of clips from the episodes `keys` (B), whose frames are `frame_ids` (B, T)."""
        return {
            name: torch.stack([own[key][ids] for key, ids in zip(keys, frame_ids, strict=True)])
            for name, own in self.arrays.items()
        }


def read_labels(path: str, manifests: Sequence[Manifest]) -> Labels:
    """The labels of a file, for all episodes of the packed folders; labels of other episodes are passed over.

    Raises:
        ProbeError: no such file, a tensor of another name, rank or type, an episode without labels or with the wrong
            number, a header that names no classes, or a key that is in two folders, so that one cannot tell which is
            meant.
    """
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ProbeError(f"labels={path}: not a safetensors file that can be read ({error})") from error
    arrays: dict[str, dict[str, Tensor]] = {}
    for full, values in found.items():
        name, slash, key = full.partition("/")
        if not slash or not name:
            raise ProbeError(f"labels={path}: tensor '{full}' is not called ARRAY/KEY")
        arrays.setdefault(name, {})[key] = _typed(path, full, values)
    if not arrays:
        raise ProbeError(f"labels={path}: there is nothing in it")
    _check(path, arrays, manifests)
    return Labels(arrays, _class_names(path, header), hashlib.sha256(Path(path).read_bytes()).hexdigest())


def _typed(path: str, full: str, values: Tensor) -> Tensor:
    """Classes as int64 or values as float32, as the name of the array asks."""
    name = full.partition("/")[0]
    if name not in VALUES and values.dtype in WHOLE and values.ndim == 1:
        return values.long()
    if name not in CLASSES and values.is_floating_point() and values.ndim == 2:
        return values.float()
    classes, numbers = "(T) whole numbers, a class for each frame", "(T, O) floating values"
    wanted = classes if name in CLASSES else numbers if name in VALUES else f"{classes}, or {numbers}"
    found = f"{tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}"
    raise ProbeError(f"labels={path}: '{full}' is {found}; it must be {wanted}")


def _kind(values: Tensor) -> tuple[torch.dtype, torch.Size]:
    return values.dtype, values.shape[1:]


def _class_names(path: str, header: dict[str, str]) -> tuple[str, ...]:
    try:
        names = json.loads(header.get("classes", "[]"))
    except ValueError:
        names = None
    if not isinstance(names, list) or any(not isinstance(name, str) for name in names):
        raise ProbeError(f"labels={path}: `classes` in its header is not a JSON list of names")
    return tuple(names)


def _check(path: str, arrays: dict[str, dict[str, Tensor]], manifests: Sequence[Manifest]) -> None:
    seen: set[str] = set()
    first = manifests[0][0].key
    for manifest in manifests:
        keys = [entry.key for entry in manifest]
        if both := seen.intersection(keys):
            raise ProbeError(
                f"labels={path}: '{min(both)}' is a key of both folders of shards; name them apart when packing"
            )
        seen.update(keys)
        for name, own in arrays.items():
            if lacking := [key for key in keys if key not in own]:
                more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
                raise ProbeError(f"labels={path}: '{name}/{lacking[0]}'{more} is missing, a key of {manifest.location}")
            for entry in manifest:
                if _kind(own[entry.key]) != _kind(own[first]):
                    raise ProbeError(f"labels={path}: '{name}/{entry.key}' is of another kind than '{name}/{first}'")
                if len(own[entry.key]) != entry.frames:
                    raise ProbeError(
                        f"labels={path}: '{name}/{entry.key}' has {len(own[entry.key])} values, the episode "
                        f"{entry.frames} frames"
                    )
