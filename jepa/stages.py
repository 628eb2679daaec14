"""A stage of training that begins from what another run has learned, such as a cool-down at more frames."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from jepa import checkpoint
from jepa.checkpoint import CheckpointError
from jepa.pieces import Read

SAME = (("encoder", "heads"), ("encoder", "rope_layout"), ("predictor", "heads"))
"""What changes no tensor's shape, and yet what the weights mean."""


def begin_from(path: str, model: nn.Module, config: dict[str, Any]) -> Read:
    """Load all weights of the run or checkpoint folder `path` into `model`; returns what reads the moments there.

    `config` is that of the run to come. Frames and size may differ: rotary positions have nothing to resize.

    Raises:
        CheckpointError: no such run or checkpoint; it is damaged; or it does not fit: names what differs.
    """
    run = Path(path).parent.parent if Path(path).parent.name == "checkpoints" else Path(path)
    if not (run / "config.json").is_file():
        raise CheckpointError(f"start_from: no run at {run}: config.json is missing; name a run or a checkpoint of one")
    there = json.loads((run / "config.json").read_text())
    if not isinstance(there.get("encoder"), dict):
        raise CheckpointError(f"start_from: {run} is not a pre-training run: its config has no encoder")
    for part, key in SAME:
        old, new = there.get(part, {}).get(key), config[part][key]
        if old != new:
            raise CheckpointError(f"start_from: {path} has {part}.{key}={old}, this run has {new}; make them the same")
    folder = _newest(run) if run == Path(path) else _whole(Path(path))
    checkpoint.load_weights(model, checkpoint.load(folder), str(folder))
    return checkpoint.reader(folder, ("optimizer",))


def _newest(run: Path) -> Path:
    folder, problems = checkpoint.latest(run)
    if folder is None:
        raise CheckpointError(f"start_from: {problems[0] if problems else f'no checkpoint in {run}'}")
    return folder


def _whole(folder: Path) -> Path:
    if what := checkpoint.fault(folder):
        raise CheckpointError(f"start_from: {what}")
    return folder
