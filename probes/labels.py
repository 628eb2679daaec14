"""Labels of one's own for episodes that are packed already: a safetensors file with a class or value for each frame.

A tensor is named `ARRAY/KEY`: the name that a task reads it by (such as `phase`), and the key of the episode in the
shards. It is (T) int64 classes, below 0 where a frame has none, or (T, …) values, T being the episode's frames. The
header may name the classes: under `classes`, a JSON list.
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


@dataclass(frozen=True)
class Labels:
    """Per-frame `arrays`, by name and by the key of the episode; the names of the `classes` where they are given."""

    arrays: dict[str, dict[str, Tensor]]  # (T, ...)
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
        ProbeError: no such file, a tensor of another name, an episode without labels or with the wrong number, or a
            key that is in two folders, so that one cannot tell which is meant.
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
        if not slash or not name or values.ndim < 1:
            raise ProbeError(f"labels={path}: tensor '{full}' is not called ARRAY/KEY and a value for each frame")
        arrays.setdefault(name, {})[key] = values
    if not arrays:
        raise ProbeError(f"labels={path}: there is nothing in it")
    _check(path, arrays, manifests)
    return Labels(
        arrays, tuple(json.loads(header.get("classes", "[]"))), hashlib.sha256(Path(path).read_bytes()).hexdigest()
    )


def _check(path: str, arrays: dict[str, dict[str, Tensor]], manifests: Sequence[Manifest]) -> None:
    seen: set[str] = set()
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
                if len(own[entry.key]) != entry.frames:
                    raise ProbeError(
                        f"labels={path}: '{name}/{entry.key}' has {len(own[entry.key])} values, the episode "
                        f"{entry.frames} frames"
                    )
