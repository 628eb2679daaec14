"""One attempt at a checkpoint: every process writes its files and says so; process 0 waits for all and commits.

It happens in step_00000123.partial/ on a file system that all processes see, so that threads need no collective. What
an earlier attempt has left there, or still writes, is not taken for this one's.
"""

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from jepa.checkpoint_format import KINDS, STATE, CheckpointError, file_of, measure, names, write_state
from jepa.checkpoint_retention import set_aside
from jepa.pieces import Pieces
from jepa.status import write_json

_ATTEMPT = "attempt.json"
_PATIENCE = 10.0
"""Seconds that a shared file system may take to show the others what process 0 wrote before the barrier."""


def begin(partial: Path) -> None:
    """Clear what crashes have left beside `partial`, and open it for a new attempt: process 0, before all others."""
    for left in partial.parent.glob("*.partial"):
        shutil.rmtree(left, ignore_errors=left != partial)
    partial.mkdir(parents=True)
    write_json(partial / _ATTEMPT, {"attempt": f"{time.time_ns()}-{os.getpid()}"})


def begun(partial: Path) -> str:
    """The name of the attempt that process 0 has begun. Raises CheckpointError where it has not."""
    if (said := _hear(partial / _ATTEMPT, time.monotonic() + _PATIENCE)) is None:
        raise CheckpointError(f"{partial}: process 0 did not begin it")
    return str(said["attempt"])


def write_part(partial: Path, attempt: str, rank: int, world: int, pieces: Pieces) -> None:
    """Write the files of process `rank`, down to the disk, and say so. Raises CheckpointError or OSError."""
    tensors: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    shapes = {}
    for name, piece in pieces.items():
        own, key = tensors["model" if name.startswith("model/") else "optimizer"], name.removeprefix("model/")
        if piece.whole:
            own[key] = piece.values.reshape(piece.shape)
        elif len(piece.values):
            own[f"{key}@{piece.start}"] = piece.values
            shapes[name] = piece.shape
    files = {}
    for kind in KINDS:
        path = partial / file_of(kind, rank, world)
        try:
            save_file(tensors[kind], path)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: {error}") from error
        sync(path)
        files[path.name] = measure(path)
    write_json(partial / _word_of(rank), {"attempt": attempt, "files": files, "shapes": shapes})


def give_up(partial: Path, attempt: str, rank: int, cause: str) -> None:
    """Say that process `rank` has failed, so that process 0 need not wait."""
    with suppress(OSError):
        write_json(partial / _word_of(rank), {"attempt": attempt, "error": cause})


def commit(partial: Path, attempt: str, state: dict[str, Any], timeout: float) -> None:
    """Wait for the word of all processes, write the manifest of `state` and give the folder its name: process 0.

    Raises:
        CheckpointError: a process has failed or was not done in `timeout` seconds, or the parts do not fit together.
    """
    deadline = time.monotonic() + timeout
    words = []
    for rank in range(state["world"]):
        word = _hear(partial / _word_of(rank), deadline, attempt)
        if word is None:
            raise CheckpointError(f"{partial}: process {rank} of {state['world']} was not done within {timeout:g} s")
        if "error" in word:
            raise CheckpointError(f"process {rank}: {word['error']}")
        words.append(word)
    merged = {key: {k: v for word in words for k, v in word[key].items()} for key in ("files", "shapes")}
    write_state(partial, {**state, **merged})
    names(partial)  # raises if the whole cannot be put together again
    for scrap in (_ATTEMPT, *map(_word_of, range(state["world"]))):
        (partial / scrap).unlink()
    sync(partial / STATE)
    sync(partial)
    folder = partial.with_suffix("")
    old = set_aside(folder) if folder.exists() else None  # damaged, as a rule: the run could not go on from it
    os.replace(partial, folder)
    sync(folder.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _word_of(rank: int) -> str:
    return f"rank_{rank:05d}.json"


def _hear(path: Path, deadline: float, attempt: str = "") -> dict[str, Any] | None:
    """What a process says in `path`, of this attempt if it is given; None where it says nothing in time."""
    while True:
        with suppress(OSError, ValueError):
            said = json.loads(path.read_text())
            if attempt in ("", said["attempt"]):
                return dict(said)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)
