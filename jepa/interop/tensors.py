"""Reads tensors from files of others, .pt and .safetensors, without ever running what may be hidden in them."""

import json
import re
import struct
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jepa.checkpoint import CheckpointError

Tensors = dict[str, Tensor]
PICKLES = (".pt", ".pth", ".bin", ".tar")

_INDEX = "model.safetensors.index.json"


def read_pickle(path: Path) -> dict[str, Any]:
    """The dict of a file written by `torch.save`: tensors, numbers and containers of them, and nothing else.

    Raises:
        CheckpointError: the file is missing, damaged, no dict, or needs more than tensors to be read.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a foreign pickle protocol
            # Mapped, a file of 16 GB costs no more memory than the part of it that is used.
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        raise CheckpointError(f"{path} was refused, and nothing in it was run: {_reason(str(error))}") from error
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError, struct.error) as error:
        raise CheckpointError(f"cannot read {path}: {_damage(path, error)}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not the dict of tensors of a checkpoint")
    return found


def read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Tensors and metadata of a .safetensors file. Raises CheckpointError where it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {_damage(path, error)}") from error


def read_folder(folder: Path) -> Tensors:
    """The tensors of a folder as transformers writes them, in one file or several. Raises CheckpointError."""
    if (folder / _INDEX).is_file():
        names = sorted(set(read_json(folder / _INDEX).get("weight_map", {}).values()))
        if bad := [name for name in names if Path(name).name != name]:
            raise CheckpointError(f"{folder / _INDEX} names a file outside its folder: {bad[0]}")
        tensors: Tensors = {}
        for name in names:
            tensors |= read_safetensors(folder / name)[0]
        return tensors
    if (folder / "model.safetensors").is_file():
        return read_safetensors(folder / "model.safetensors")[0]
    if (folder / "pytorch_model.bin").is_file():
        return tensors_of(read_pickle(folder / "pytorch_model.bin"), str(folder / "pytorch_model.bin"))
    raise CheckpointError(f"no weights in {folder}: it has no model.safetensors")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError where the file is missing or holds something else."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return found


def tensors_of(values: Any, where: str) -> Tensors:
    """`values` if it is a dict of tensors by name. Raises CheckpointError, naming the first that is not."""
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} is a {type(values).__name__}, not a dict of tensors")
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{where}: '{key}' is a {type(value).__name__}, not a tensor")
    return values


def _reason(message: str) -> str:
    """What torch's restricted unpickler objected to, in one line."""
    if found := re.search(r"GLOBAL (\S+)", message):
        return f"it asks for {found[1]}, and only tensors are read; ask its author for a .safetensors file"
    lines = [line.strip() for line in message.splitlines() if line.strip() and "torch.load" not in line]
    return f"it is damaged, or holds more than tensors ({lines[-1] if lines else 'no reason given'})"


def _damage(path: Path, error: Exception) -> str:
    if not path.is_file():
        return "there is no such file"
    if isinstance(error, PermissionError | IsADirectoryError):
        return str(error.strerror)
    if not path.stat().st_size:
        return "it is empty"
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"it is cut off or damaged ({line[:120]})"
