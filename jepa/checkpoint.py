"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all; nothing is ever unpickled.

RUN/checkpoints/step_00000123/ holds model.safetensors, optimizer.safetensors and state.json, the manifest; where
several processes write, each has files of its own, such as model-00000-of-00002.safetensors. A tensor that one process
holds all of is stored under its name and in its shape. A part is stored flat, as NAME@START. Whatever wrote it,
`reader` gives whole tensors. RUN/config.json holds the config of the run. See jepa/checkpoint_writer.py for writing.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jepa.checkpoint_format import CheckpointError, complete, fault, folder_of, names, reader, step_of
from jepa.status import write_json


def latest(run: Path) -> tuple[Path | None, list[str]]:
    """The newest valid checkpoint of a run, or None; and one line for each newer one that is damaged."""
    problems: list[str] = []
    for folder in reversed(complete(run)):
        if not (what := fault(folder)):
            return folder, problems
        problems.append(f"{what}; trying an older checkpoint")
    return None, problems


def find(run: Path, step: int | None = None) -> Path:
    """The newest valid checkpoint of a run, or that of `step`. Raises CheckpointError where there is none."""
    if step is None:
        folder, problems = latest(run)
        if folder is None:
            raise CheckpointError(problems[0] if problems else f"no checkpoint in {run / 'checkpoints'}")
        return folder
    folder = folder_of(run, step)
    if folder not in complete(run):
        there = ", ".join(str(step_of(known)) for known in complete(run))
        raise CheckpointError(f"no checkpoint of step {step} in {run}; there are: {there or 'none'}")
    if what := fault(folder):
        raise CheckpointError(what)
    return folder


def load(folder: Path) -> dict[str, Tensor]:
    """The model's tensors of a checkpoint, whole, by their names in the state dict. Raises CheckpointError."""
    read = reader(folder, ("model",))
    found = {name.removeprefix("model/"): read(name) for name in names(folder, ("model",))}
    return {name: value for name, value in found.items() if value is not None}


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


def read_model(run: str | Path, step: int | None = None) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """Config, model tensors and folder of a run's newest valid checkpoint, or of that of `step`.

    Raises:
        CheckpointError: no run, or no such checkpoint, or it is damaged.
    """
    run = Path(run)
    config = run / "config.json"
    if not config.is_file():
        raise CheckpointError(f"no run at {run}: {config} is missing")
    folder = find(run, step)
    return json.loads(config.read_text()), load(folder), folder


FREE = (
    *("data.workers", "data.cache_gb", "data.timeout"),
    *("loop.checkpoint_every", "loop.keep", "loop.log_every", "loop.alarms", "loop.timeout", "loop.trackers"),
)
"""What may change from one part of a run to the next: no figure depends on it."""
EARLIER = {"crop": "centre"}
"""Keys that the configs of earlier runs have not, and what was done without them."""


def claim_run(run: Path, config: dict[str, Any]) -> None:
    """Write the run's config, or check that a run already there has the same one, but for what is `FREE`.

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
    if path.is_file() and complete(path.parent):
        found = _differences(json.loads(path.read_text()), json.loads(json.dumps(values)))
        fixed = [line for line in found if not line.startswith(FREE)]
        if fixed:
            return fixed[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, values)
    return ""


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        names = {k: f"{key}.{k}" if key else k for k in keys}
        return [d for k, name in names.items() for d in _differences(old.get(k, EARLIER.get(name)), new.get(k), name)]
    return [] if old == new else [f"{key}: {old} there, {new} here"]
