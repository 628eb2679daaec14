"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all; nothing is ever unpickled.

RUN/checkpoints/step_00000123/ holds model.safetensors, optimizer.safetensors and state.json; the latter names
the step and the sha256 of the two files. RUN/config.json holds the config of the run.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_STATE = "state.json"
_FILES = ("model.safetensors", "optimizer.safetensors")


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another shape; the message is one line."""


def save(run: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, keep: int = 2) -> Path:
    """Write the checkpoint of `step` atomically and remove all but the newest `keep`."""
    folder = _folder(run, step)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    moments = {
        f"{names[p]}/{key}": value.detach().clone().contiguous()
        for p, state in optimizer.state.items()
        for key, value in state.items()
    }
    weights = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}
    for file, tensors in zip(_FILES, (weights, moments), strict=True):
        save_file(tensors, partial / file)
    state = {"step": step, "sha256": {file: _sha256(partial / file) for file in _FILES}}
    (partial / _STATE).write_text(json.dumps(state, indent=1))
    for file in (*_FILES, _STATE):
        _sync(partial / file)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    _sync(folder.parent)
    for old in _complete(run)[:-keep]:
        shutil.rmtree(old)
    return folder


def latest(run: Path) -> tuple[Path | None, list[str]]:
    """The newest valid checkpoint of a run, or None; and one line for each newer one that is damaged."""
    problems: list[str] = []
    for folder in reversed(_complete(run)):
        if not (what := fault(folder)):
            return folder, problems
        problems.append(f"{what}; trying an older checkpoint")
    return None, problems


def fault(folder: Path) -> str:
    """What is wrong with a checkpoint folder, in one line; empty where it is whole."""
    try:
        promised = json.loads((folder / _STATE).read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{folder}: {_STATE} is damaged or missing"
    bad = [f for f in _FILES if not (folder / f).is_file() or _sha256(folder / f) != promised.get(f)]
    return f"{folder}: {bad[0]} is missing or does not match its sha256" if bad else ""


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load weights and moments into place; returns the step.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape.
    """
    weights, moments = load(folder)
    load_weights(model, weights, str(folder))
    load_moments(model, optimizer, moments)
    return int(json.loads((folder / _STATE).read_text())["step"])


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights by name, and the optimiser's moments by "name/key", of a checkpoint folder. Raises CheckpointError."""
    return _load(folder / _FILES[0]), _load(folder / _FILES[1])


def load_moments(model: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    """Hand the optimiser the moments of every parameter that has some."""
    for name, parameter in model.named_parameters():
        own = {k.rsplit("/", 1)[1]: v for k, v in moments.items() if k.rsplit("/", 1)[0] == name}
        if own:
            optimizer.state[parameter] = own


def load_weights(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Strictly load tensors; nothing is loaded unless all of it fits. Raises CheckpointError, one line."""
    own = model.state_dict()
    problems = [f"{k} is missing" for k in own if k not in tensors]
    problems += [f"{k} is unexpected" for k in tensors if k not in own]
    problems += [
        f"{k} is {tuple(tensors[k].shape)}, the model wants {tuple(v.shape)}"
        for k, v in own.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CheckpointError(f"checkpoint {where} does not fit the model: {problems[0]}{more}")
    model.load_state_dict(tensors)


def read_model(run: str | Path) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """Config, model tensors and folder of the newest valid checkpoint of a run. Raises CheckpointError."""
    run = Path(run)
    config = run / "config.json"
    if not config.is_file():
        raise CheckpointError(f"no run at {run}: {config} is missing")
    folder, problems = latest(run)
    if folder is None:
        raise CheckpointError(problems[0] if problems else f"no checkpoint in {run / 'checkpoints'}")
    return json.loads(config.read_text()), _load(folder / _FILES[0]), folder


def claim_run(run: Path, config: dict[str, Any]) -> None:
    """Write the run's config, or check that a run already there has the same one.

    Raises:
        CheckpointError: the folder holds a run of another config; names the first key that differs.
    """
    if changed := _claim(run / "config.json", config):
        raise CheckpointError(f"{run} holds another run ({changed}); choose another out=… or remove it")


def claim_data(run: Path, digests: dict[str, str]) -> None:
    """Write the digests of the run's data sets by path, or check that a run already there has read the same data.

    Raises:
        CheckpointError: a data set has changed since; names it.
    """
    if changed := _claim(run / "data.json", digests):
        raise CheckpointError(f"{run} was begun on other data ({changed}); choose another out=… or put them back")


def _claim(path: Path, values: dict[str, Any]) -> str:
    """Write `values`, or the first difference from those there; a run without a checkpoint may still change."""
    if path.is_file() and _complete(path.parent):
        return next(iter(_differences(json.loads(path.read_text()), json.loads(json.dumps(values)))), "")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1))
    return ""


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{key}.{k}" if key else k)]
    return [] if old == new else [f"{key}: {old} there, {new} here"]


def _folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:08d}"


def _complete(run: Path) -> list[Path]:
    return sorted(f.parent for f in (run / "checkpoints").glob(f"step_????????/{_STATE}"))


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
