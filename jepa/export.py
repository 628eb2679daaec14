"""Weights of a run, by whatever engine, in one safetensors file that needs nothing of ours to be read."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from jepa.checkpoint import CheckpointError, read_model
from jepa.checkpoint_format import step_of

PARTS = ("encoder", "target_encoder", "all")


def export(run: Path, out: Path, part: str = "all", step: int | None = None) -> Path:
    """Write `part` of a run's newest valid checkpoint, or of that of `step`, to `out`; returns the checkpoint.

    Tensors are fp32 where they are not integers. An encoder's names are those of `Encoder`; with `all` they are the
    trainable's. The metadata hold the run's `config` as JSON, `part` and `step`.

    Raises:
        CheckpointError: no such run, checkpoint or part, or `out` cannot be written.
    """
    if part not in PARTS:
        raise CheckpointError(f"--part {part}: must be one of {', '.join(PARTS)}")
    config, tensors, folder = read_model(run, step)
    prefix = "" if part == "all" else f"{part}."
    chosen = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if not chosen:
        there = ", ".join(sorted({name.split(".")[0] for name in tensors}))
        raise CheckpointError(f"{run} has no {part}, only {there}; use --part all")
    chosen = {name: value.float() if value.is_floating_point() else value for name, value in chosen.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial")
    about = {"config": json.dumps(config), "part": part, "step": str(step_of(folder)), "format": "pt"}
    try:
        save_file(chosen, partial, metadata=about)
    except SafetensorError as error:
        raise CheckpointError(f"cannot write {out}: {error}") from error
    partial.replace(out)
    return folder
