"""What a benchmark makes of post-training runs before it plans: nets without search, and open-loop skill."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jepa.checkpoint import CheckpointError, latest
from jepa.config import ConfigError, to_dict
from jepa.encoded import read_episodes
from jepa.logs import progress_bar
from jepa.open_loop import open_loop
from jepa.planning.bench.config import PlanConfig
from jepa.planning.bench.rows import WORLDS, Row
from jepa.planning.inverse import train_on_run
from jepa.planning.planners import inverse_dynamics
from jepa.runs import load_world, reading

HORIZONS = (1, 2, 4, 8)  # steps


def weights(run: str) -> str:
    """Stands for the weights of a run: the record of its newest checkpoint. Raises CheckpointError without one."""
    folder, problems = latest(Path(run))
    if folder is None:
        raise CheckpointError(problems[0] if problems else f"no checkpoint of a post-training in {run}")
    return (folder / "state.json").read_text()


def check_camera(run: str) -> None:
    """Raise ConfigError for a world that reads where the camera stands, which no environment says."""
    if reading(run).extrinsics:
        raise ConfigError(
            f"{run}: the world model reads where the camera stands, and no environment of the benchmark says it; "
            "give one that was trained without world.predictor.extrinsics"
        )


def with_nets(rows: Sequence[Row], config: PlanConfig, known: dict[str, str]) -> tuple[list[Row], dict[str, str]]:
    """The rows with the nets of `cloning` and `inverse` trained, and the reasons why one cannot be.

    Args:
        known: the weights of every run. A net that was trained on the same ones, as it is to be now, is kept.
    """
    ready, omitted = [], {}
    for row in rows:
        if row.kind not in ("cloning", "inverse"):
            ready.append(row)
            continue
        wanted = config.cloning if row.kind == "cloning" else config.inverse
        digest = hashlib.sha256(json.dumps([known[row.run], to_dict(wanted)]).encode()).hexdigest()[:12]
        path = Path(config.out) / "nets" / f"{row.kind}_{digest}.safetensors"
        try:
            if not path.is_file():
                with progress_bar() as bar:
                    task = bar.add_task(f"train {row.label}", total=wanted.steps, figures="")
                    train_on_run(row.run, wanted, path, lambda bar=bar, task=task: bar.advance(task))
        except CheckpointError as error:
            omitted[row.kind] = str(error)
            continue
        ready.append(replace(row, planner=inverse_dynamics.Config(weights=str(path))))
    return ready, omitted


def skills(rows: Sequence[Row], config: PlanConfig, known: dict[str, str]) -> list[dict[str, Any]]:
    """Open-loop figures of every world on the held-out episodes of its post-training, or the reason why there are none.

    As of `jepa.open_loop`; kept in OUT/open_loop.json as long as the weights are the same.
    """
    path = Path(config.out) / "open_loop.json"
    try:
        before = {(told["run"], told["weights"]): told for told in json.loads(path.read_text())}
    except (OSError, json.JSONDecodeError):
        before = {}
    told = []
    for row in [row for row in rows if row.name in WORLDS]:
        own = (row.run, hashlib.sha256(known[row.run].encode()).hexdigest())
        found = before.get(own) or {"run": own[0], "weights": own[1], **_skill(row.run)}
        told.append({"label": row.label, **found})
    path.write_text(json.dumps([t for t in told if "absent" not in t], indent=1))
    return told


def _skill(run: str) -> dict[str, Any]:
    try:
        data = read_episodes(run, "heldout")
    except CheckpointError as error:
        return {"absent": str(error)}
    horizons = tuple(k for k in HORIZONS if k < max(2, np.median(data.lengths)))  # most episodes have a window
    _, world = load_world(run)
    return {"episodes": int((data.lengths > max(horizons)).sum()), **open_loop(world, data, horizons)}
