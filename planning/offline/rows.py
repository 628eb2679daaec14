"""The rows of `jepa plan offline` that plan, each a job whose record stays on disk for the next call."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa import runs
from jepa.config import ConfigError, build, plugin, to_dict
from jepa.data.index import Manifest
from jepa.logs import progress_bar
from jepa.models.encoder import Encoder
from jepa.planning import inverse
from jepa.planning.landscape import facing
from jepa.planning.offline.measure import Starts
from jepa.planning.placement import device_of, rounding
from jepa.planning.planners import inverse_dynamics
from jepa.planning.planners.base import Bounds
from jepa.worlds.base import WorldModel

LABELS = {
    "zero": "zero action",
    "mean": "mean training action",
    "inverse": "inverse dynamics",
    "ours": "planner",
    "control": "random-init encoder",
}


@dataclass(frozen=True)
class OfflineConfig:
    world: str = "???"  # run folder of a post-training
    shards: str = "???"  # packed episodes that it was not trained on; actions are changes: 0 is to do nothing
    control: str = ""  # run folder of a post-training on a random-init encoder; "" leaves the row out
    out: str = ""  # "" is WORLD/offline
    goals: tuple[int, ...] = (1, 2, 3)  # steps from a start to its goal
    every: int = 3  # steps between two starts of an episode
    episodes: int = 30  # at most, from the first
    planner: Any = plugin("jepa.planning.planners", "cem")  # its horizon is that of the goal
    inverse_steps: int = 2000  # of training the inverse dynamics
    batch: int = 8  # starts planned together
    device: str = "cpu"  # or cuda: where encoders and worlds lie
    precision: str = "fp32"  # or bf16, by autocast: what these compute in
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.goals or min(*self.goals, self.every, self.episodes, self.inverse_steps, self.batch) < 1:
            raise ConfigError("offline: goals, every, episodes, inverse_steps and batch must be at least 1")


@dataclass(frozen=True)
class Job:
    """One row towards goals `horizon` steps away."""

    row: str
    horizon: int
    path: Path
    key: str

    def result(self) -> dict[str, Any] | None:
        """The record of this very job, None when it has not been run."""
        try:
            record = json.loads(self.path.read_text())
        except (OSError, json.JSONDecodeError):
            return None
        return record if record.get("key") == self.key else None


def jobs(
    config: OfflineConfig,
    manifest: Manifest,
    opened: dict[str, tuple[Encoder, WorldModel]],
    reading: runs.Reading,
    limit: Tensor,
    out: Path,
) -> list[Job]:
    """Every row that plans, at every horizon; the key changes with all that the result depends on.

    opened: encoder and world of the rows `ours` and, where there is one, `control`. limit: (A).
    """
    digests = {
        row: [runs.encoder_sha256(encoder), runs.weights_sha256(world)] for row, (encoder, world) in opened.items()
    }
    means: dict[str, Any] = {"shards": manifest.sha256, "fps": reading.fps, "limit": limit.tolist()}
    means |= {k: getattr(config, k) for k in ("seed", "goals", "every", "episodes")}
    means |= rounding(config.device, config.precision)
    means |= {k: v for k, v in to_dict(reading).items() if k != "fps" and v != getattr(runs.Reading, k)}
    found = []
    for row in ("inverse", *opened):
        own = config.inverse_steps if row == "inverse" else to_dict(config)["planner"]
        for horizon in config.goals:
            described = json.dumps([row, horizon, means, own, digests.get(row, digests["ours"])])
            key = hashlib.sha256(described.encode()).hexdigest()
            found.append(Job(row, horizon, out / "jobs" / f"{row}_{horizon}.json", key))
    return found


def train_inverse(config: OfflineConfig, data: Starts, world: WorldModel, path: Path) -> None:
    """Train the inverse dynamics on what the world was trained on; it sees what the planner sees."""
    proprio = "pose" in facing(world, *data.pair(slice(1), 1))[0]
    net = inverse.InverseConfig(
        max_gap=max(config.goals), proprio=proprio, steps=config.inverse_steps, seed=config.seed
    )
    with progress_bar() as bar:
        task = bar.add_task("offline: train inverse dynamics", total=net.steps, figures="")
        inverse.train_on_run(config.world, net, path, lambda: bar.advance(task))


def work(job: Job, config: OfflineConfig, world: WorldModel, data: Starts, bounds: Bounds, net: Path) -> None:
    """Plan from every start and write the record; `net` is what `train_inverse` wrote."""
    if job.row == "inverse":
        planner = build(inverse_dynamics.Config(str(net), job.horizon))
    else:
        planner = build(replace(config.planner, horizon=job.horizon))
    bounds, plans = bounds.to(device_of(world)), []
    with progress_bar() as bar:
        name = f"offline: {LABELS[job.row]}, goals at {job.horizon}"
        task = bar.add_task(name, total=len(data.episode), figures="")
        for at in range(0, len(data.episode), config.batch):
            state, goal = facing(world, *data.pair(slice(at, at + config.batch), job.horizon))
            # The same stream for every batch: a plan does not depend on how many are made together.
            plans.append(planner.plan(world, state, goal, torch.Generator().manual_seed(config.seed), bounds=bounds))
            bar.advance(task, len(plans[-1].cost))
    record = {k: v for k, v in asdict(job).items() if k != "path"}
    record |= {"actions": torch.cat([plan.actions for plan in plans]).tolist(), "model_steps": plans[0].model_steps}
    record |= {"energy": torch.cat([plan.cost for plan in plans]).tolist()}
    job.path.parent.mkdir(parents=True, exist_ok=True)
    partial = job.path.with_suffix(".partial")
    partial.write_text(json.dumps(record))
    partial.replace(job.path)
