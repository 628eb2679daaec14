"""`jepa plan offline`: how near a planner comes to the logged actions of held-out episodes, without a robot.

From a recorded frame it plans towards the frame k steps later, and its actions are compared with those that led there.
It is the energy landscape of V-JEPA 2-AC (arXiv 2506.09985, figure 9) as a number, with rows that keep it honest.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa import runs
from jepa.config import ConfigError, to_dict
from jepa.data.index import Manifest
from jepa.encode import rate
from jepa.encoded import read_episodes
from jepa.logs import console
from jepa.models.ac_predictor import EXTRINSICS_DIM
from jepa.planning.landscape import facing, scored
from jepa.planning.offline import page as offline_page
from jepa.planning.offline.measure import Starts, starts, summarise
from jepa.planning.offline.rows import LABELS, OfflineConfig, jobs, train_inverse, work
from jepa.planning.placement import check_placement, lowered
from jepa.planning.planners.base import Bounds
from jepa.pose import UNITS
from jepa.worlds.base import WorldModel

REACH = 0.99  # plans may go as far on each axis as this share of the training actions did
CHUNK = 64  # starts whose energies are computed together


def run(config: OfflineConfig, command: str = "") -> dict[str, Any]:
    """Plan what is missing, print, and write OUT/offline.json and OUT/report.html; returns what offline.json holds.

    Args:
        command: how it was called, for the record.

    Raises:
        ConfigError: an unknown device or precision, the world was trained on these shards, their actions have another
            width, or episodes are too few.
        CheckpointError, DataError: a run or the shards cannot be read.
    """
    check_placement(config.device, config.precision)
    manifest, trained, reading = Manifest.load(config.shards), trained_actions(config.world), runs.reading(config.world)
    opened = {"ours": _open(config.world, config)}
    _check(config, manifest, reading)
    if config.control:
        runs.check_weights(config.control, "random", f"{LABELS['control']}, control={config.control}")
        if (other := runs.reading(config.control)) != reading:
            raise ConfigError(f"control={config.control} was trained at {other}, {config.world} at {reading}")
        opened["control"] = _open(config.control, config)
    cut = (reading, max(config.goals), config.every, config.episodes, config.precision)
    data = {row: starts(manifest, encoder, *cut) for row, (encoder, _) in opened.items()}  # type: ignore[arg-type]
    limit = torch.from_numpy(np.quantile(trained.abs().numpy(), REACH, axis=0)).float()
    out = Path(config.out or Path(config.world) / "offline")
    todo = jobs(config, manifest, opened, reading, limit, out)  # type: ignore[arg-type]
    net = out / "inverse.safetensors"
    if any(job.row == "inverse" and job.result() is None for job in todo):
        train_inverse(config, data["ours"], opened["ours"][1], net)
    for job in todo:
        if job.result() is None:
            source = "control" if job.row == "control" else "ours"
            work(job, config, opened[source][1], data[source], Bounds(-limit, limit), net)
    records: list[Any] = [job.result() for job in todo]
    mean, world = trained.mean(0), opened["ours"][1]
    units = UNITS if reading.fps else manifest.spec.action_units  # at fps they are changes of pose
    goals = [
        _compare(horizon, [r for r in records if r["horizon"] == horizon], data["ours"], mean, world, units, config)
        for horizon in config.goals
    ]
    result = {
        "command": command,
        "config": to_dict(config),
        "fps": rate(manifest, reading.fps),
        "units": list(units),
        "episodes": len(np.unique(data["ours"].episode)),
        "starts": len(data["ours"].episode),
        "limit": limit.tolist(),
        "goals": goals,
        "notes": _notes(config, goals),
    }
    (out / "offline.json").write_text(json.dumps(result, indent=1))
    offline_page.show(result, console)
    console.print(f"wrote {offline_page.write(result, out)}", soft_wrap=True)
    return result


def _open(run: str, config: OfflineConfig) -> tuple[runs.AnyEncoder, WorldModel]:
    encoder, world = runs.load_world(run)
    return encoder.to(config.device), lowered(world.to(config.device), config.precision)


def trained_actions(run: str | Path) -> Tensor:
    """Actions (n, A) that the world of a run was trained on; raises CheckpointError where they are gone."""
    return torch.cat([part["actions"] for part in read_episodes(run, "train").parts])


def _check(config: OfflineConfig, manifest: Manifest, reading: runs.Reading) -> None:
    spec, (actions, states) = manifest.spec, read_episodes(config.world, "train").widths
    states -= EXTRINSICS_DIM * reading.extrinsics
    for what, there, wanted in (("actions", spec.action_dim, actions), ("states", spec.state_dim, states)):
        if there != wanted:
            raise ConfigError(f"{config.shards}: {what} of {there} numbers; the world has {wanted}")
    if runs.trained_on(config.world, manifest):
        raise ConfigError(
            f"{config.shards}: {config.world} was trained on these episodes; give others, packed by themselves"
        )


def _compare(
    horizon: int,
    records: list[dict[str, Any]],
    data: Starts,
    mean: Tensor,
    world: WorldModel,
    units: tuple[str, ...],
    config: OfflineConfig,
) -> dict[str, Any]:
    """All rows towards goals `horizon` steps away, and mean energies in our world: do the logged actions have less?"""
    logged = data.actions[:, :horizon]
    rows = {"zero": torch.zeros_like(logged), "mean": mean.expand_as(logged)}
    rows |= {record["row"]: torch.tensor(record["actions"]) for record in records}
    energy = {"logged": _energy(world, data, logged), "zero": _energy(world, data, rows["zero"])}
    energy |= {record["row"]: float(np.mean(record["energy"])) for record in records if record["row"] != "control"}
    return {
        "horizon": horizon,
        "rows": summarise(rows, logged, data.episode, units, np.random.default_rng(config.seed)),
        "energy": energy,
        "model_steps": {record["row"]: record["model_steps"] for record in records},
    }


@torch.no_grad()
def _energy(world: WorldModel, data: Starts, actions: Tensor) -> float:
    """The mean energy of actions (n, k, A) towards the goals k steps away."""
    energies = []
    for at in range(0, len(actions), CHUNK):
        part = slice(at, at + CHUNK)
        state, goal = facing(world, *data.pair(part, actions.shape[1]))
        energies.append(scored(world, state, actions[part, None], goal)[:, 0])
    return float(torch.cat(energies).mean())


def _notes(config: OfflineConfig, goals: list[dict[str, Any]]) -> list[str]:
    """What a reader must know of the rows."""
    rows = goals[0]["rows"]
    far = [u for u, skill in rows["mean"]["first"]["skill"].items() if skill and skill[0] > 0.5 and not u.isdigit()]
    notes = [f"the actions in {u} look like targets, not changes: the mean is far nearer than 0 is" for u in far]
    if not config.control:
        notes.append("no control=… given: nothing says that pre-training helped")
    return notes
