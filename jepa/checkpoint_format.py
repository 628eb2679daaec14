"""What a checkpoint folder holds: files of tensors or their parts, and a manifest of the files' sums, itself sealed."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jepa.pieces import Read

STATE = "state.json"
"""The manifest, and the mark that all else is there: it is written last."""

KINDS = ("model", "optimizer")
_FORMAT = 2


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another shape, or cannot be written; the message is one line."""


class _Part(NamedTuple):
    """The values [start, start + length) of a tensor of `shape`, and where they are."""

    start: int
    length: int
    shape: tuple[int, ...]
    file: str
    key: str


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return run / "checkpoints" / f"step_{step:08d}"


def file_of(kind: str, rank: int, world: int) -> str:
    """The file in which process `rank` of `world` keeps its pieces of the model or of the optimiser."""
    return f"{kind}.safetensors" if world == 1 else f"{kind}-{rank:05d}-of-{world:05d}.safetensors"


def files_of(world: int, kinds: tuple[str, ...] = KINDS) -> list[str]:
    """All files of a checkpoint by `world` processes, but the manifest."""
    return [file_of(kind, rank, world) for kind in kinds for rank in range(world)]


def complete(run: Path) -> list[Path]:
    """The checkpoints of a run that were written to their end, by step; later damage is not looked for."""
    return sorted(f.parent for f in (run / "checkpoints").glob(f"step_{'[0-9]' * 8}/{STATE}"))


def step_of(folder: Path) -> int:
    """The step of a checkpoint folder, by its name."""
    return int(folder.name.removeprefix("step_"))


def write_state(folder: Path, values: dict[str, Any]) -> None:
    """Write the manifest of a folder; `values` are JSON."""
    (folder / STATE).write_text(_sealed({"format": _FORMAT, **values}))


def read_state(folder: Path) -> dict[str, Any]:
    """The manifest: `step`, `world`, `engine`, `files`, `shapes` of split tensors, and the loop's `extra`.

    Raises:
        CheckpointError: there is none; any byte of it has changed; or it is of another version of the format.
    """
    try:
        text = (folder / STATE).read_text()
        values = json.loads(text)
        del values["sha256"]
        whole = _sealed(values) == text
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise CheckpointError(f"{folder}: {STATE} is damaged or missing")
    if values["format"] != _FORMAT:
        raise CheckpointError(f"{folder}: of checkpoint format {values['format']}, this version reads {_FORMAT}")
    return values


def fault(folder: Path) -> str:
    """What is wrong with a checkpoint folder, in one line; empty where it is whole. Reads every byte."""
    try:
        state = read_state(folder)
    except CheckpointError as error:
        return str(error)
    for file in files_of(state["world"]):
        if not (folder / file).is_file():
            return f"{folder}: {file} is missing"
        try:
            measured = measure(folder / file)
        except OSError as error:
            return f"{folder}: {file} cannot be read: {error.strerror}"
        if measured != state["files"].get(file):
            return f"{folder}: {file} does not match its size and sha256"
    return ""


def measure(path: Path) -> dict[str, Any]:
    """Size in bytes and sha256 of a file, as the manifest has them."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def reader(folder: Path, kinds: tuple[str, ...] = KINDS) -> Read:
    """The tensors of a checkpoint by name, each read when it is asked for and put together from its parts.

    Raises:
        CheckpointError: a file cannot be read, or the parts of a tensor overlap or leave a gap: names it.
    """
    parts, files = _index(folder, kinds)

    def read(name: str) -> Tensor | None:
        if name not in parts:
            return None
        # cat also copies: what is given away must not hang on a file that may be purged
        flat = torch.cat([files[part.file].get_tensor(part.key).reshape(-1) for part in parts[name]])
        return flat.reshape(parts[name][0].shape)

    return read


def names(folder: Path, kinds: tuple[str, ...] = KINDS) -> list[str]:
    """The names of all tensors of a checkpoint, as of a `Piece`. Raises CheckpointError as `reader` does."""
    return sorted(_index(folder, kinds)[0])


def _sealed(values: dict[str, Any]) -> str:
    """The text of a manifest: the sum of all before it comes last, and the text holds nothing else."""
    own = hashlib.sha256(json.dumps(values).encode()).hexdigest()
    return json.dumps({**values, "sha256": own}, indent=1)


def _index(folder: Path, kinds: tuple[str, ...]) -> tuple[dict[str, list[_Part]], dict[str, Any]]:
    """By name the parts in order, from the headers of the files; and the open files."""
    state = read_state(folder)
    parts: dict[str, list[_Part]] = {}
    files: dict[str, Any] = {}
    for kind in kinds:
        for file in files_of(state["world"], (kind,)):
            try:
                files[file] = safe_open(folder / file, "pt")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"cannot read {folder / file}: {error}") from error
            for key in files[file].keys():  # noqa: SIM118
                name, _, start = key.rpartition("@")
                split = state["shapes"].get(_full(kind, name))
                stored = tuple(files[file].get_slice(key).get_shape())
                name, shape, start = (name, tuple(split), int(start)) if split else (key, stored, 0)
                part = _Part(start, math.prod(stored), shape, file, key)
                parts.setdefault(_full(kind, name), []).append(part)
    for name, found in parts.items():
        found.sort()
        ends = [0, *(part.start + part.length for part in found)]
        if [part.start for part in found] != ends[:-1] or ends[-1] != math.prod(found[0].shape):
            raise CheckpointError(f"{folder}: the parts of {name} overlap or leave a gap")
    return parts, files


def _full(kind: str, key: str) -> str:
    """The name of a piece from its name in a file: the model's file has those of the state dict."""
    return f"model/{key}" if kind == "model" else key
