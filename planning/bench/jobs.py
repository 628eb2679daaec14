"""The jobs of a benchmark: chunks of goals that run side by side, are kept one by one, and are not run twice.

OUT/TASK_ROW.json holds a row's episodes. They are kept as long as all that they depend on stays as it was: settings,
goals, weights. How goals are cut into chunks, and how many processes run them, does not change an episode.
"""

import contextlib
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch

from jepa.config import to_dict
from jepa.logs import progress_bar
from jepa.planning.bench import rows
from jepa.planning.bench.config import PlanConfig, frozen_goals
from jepa.planning.constraints import BoundsConfig
from jepa.planning.envs.base import make
from jepa.planning.manifest import GoalPair, Manifest, outcome, position, positions
from jepa.planning.mpc import run_episodes
from jepa.planning.placement import rounding

_ticks: Any = None


@dataclass(frozen=True)
class Cell:
    """A row on a task: `key` stands for all that its episodes depend on but their goals and seeds."""

    config: PlanConfig
    task: str
    row: rows.Row
    goals: int
    seeds: tuple[int, ...]
    key: str

    @property
    def path(self) -> Path:
        return Path(self.config.out) / f"{self.task}_{self.row.name}.json"

    def episodes(self) -> list[dict[str, Any]]:
        """The episodes that are there, of any goals and seeds."""
        try:
            record = json.loads(self.path.read_text())
        except (OSError, json.JSONDecodeError):
            return []
        return record["episodes"] if record.get("key") == self.key else []

    def add(self, episodes: Sequence[dict[str, Any]]) -> None:
        """Keep more episodes; the file is whole at any time."""
        record = {"key": self.key, "task": self.task, "row": self.row.name, "label": self.row.label}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".partial")
        unfinished.write_text(json.dumps({**record, "episodes": [*self.episodes(), *episodes]}))
        unfinished.replace(self.path)

    def record(self, manifest: Manifest) -> dict[str, Any]:
        """The row with just the episodes that are asked for, seed by seed, as `results.summarise` takes it."""
        known = {(e["pair"], e["seed"]): e for e in self.episodes()}
        pairs = [_digest(goal) for goal in manifest.of(self.task, self.goals)]
        found = [known[pair, seed] for seed in self.seeds for pair in pairs]
        return {
            **{"task": self.task, "row": self.row.name, "label": self.row.label, "seed": self.seeds[0], "films": []},
            "seconds": float(np.mean([e["seconds"] for e in found])),
            "model_steps": round(float(np.mean([e["model_steps"] for e in found]))),
            "episodes": found,
        }


@dataclass(frozen=True)
class Job:
    """Some goals of a cell, by number, at one seed."""

    cell: Cell
    seed: int
    goals: tuple[int, ...]


def cell(config: PlanConfig, manifest: Manifest, task: str, row: rows.Row, weights: str) -> Cell:
    """The cell of a row on a task; `weights` stands for those of its world and net."""
    some = config.goals or sum(goal.task == task for goal in manifest.goals)
    count = min(some, config.oracle_goals or some) if row.kind in rows.SIMULATED else some
    several = config.seeds.get(task, 1) if row.kind in rows.RANDOM and row.budget is None else 1
    means: dict[str, Any] = {"decisions": manifest.decisions[task], "env": manifest.environment}
    means |= {"step_fraction": config.step_fraction, "frozen": manifest.frozen[task]}
    means |= {"tolerance": manifest.tolerance, "close": manifest.close, "weights": weights}
    if row.planner is not None:
        means["planner"] = [type(row.planner).__module__, to_dict(row.planner)]
    if row.kind in rows.PICTURED:
        switch = config.switch_of(task)
        means |= {"goal": to_dict(config.goal), "subgoals": to_dict(switch) if switch else None}
    # Not named by default, so that episodes stay that are older than these settings.
    if row.kind not in ("nothing", "expert") and (bounds := to_dict(config.bounds)) != to_dict(BoundsConfig()):
        means["bounds"] = bounds
    if row.kind in rows.SEARCHED and config.execute > 1:
        means["execute"] = config.execute
    if row.kind in rows.WORLDS and config.seconds is not None:
        means["seconds"] = [config.seconds, config.batch]  # more episodes at once take longer
    if row.kind in rows.WORLDS and config.context:
        means["context"] = config.context
    if row.kind in (*rows.WORLDS, "cloning", "inverse"):
        means |= rounding(config.device, config.precision)
    key = hashlib.sha256(json.dumps([task, row.kind, means]).encode()).hexdigest()
    return Cell(config, task, row, count, tuple(config.seed + s for s in range(several)), key)


def missing(cells: Sequence[Cell], manifest: Manifest) -> list[Job]:
    """What is still to be run, chunk by chunk, rows that plan first: they take longest."""
    slow, jobs = ("true_dynamics", *rows.WORLDS, "oracle"), []
    for each in cells:
        done = {(e["pair"], e["seed"]) for e in each.episodes()}
        pairs = [_digest(goal) for goal in manifest.of(each.task, each.goals)]
        batch = each.config.batch
        chunk = batch * max(1, round(each.config.chunk / batch))
        for seed in each.seeds:
            for first in range(0, len(pairs), chunk):
                numbers = range(first, min(first + chunk, len(pairs)))
                if todo := tuple(i for i in numbers if (pairs[i], seed) not in done):
                    jobs.append(Job(each, seed, todo))
    return sorted(jobs, key=lambda job: (*slow, job.cell.row.kind).index(job.cell.row.kind))


def work(jobs: Sequence[Job], manifest: Manifest, workers: int) -> None:
    """Run jobs in a pool of spawned processes (or here), and keep each when it ends; a bar a task counts decisions."""
    with progress_bar() as bar:
        totals = {task: 0 for task in dict.fromkeys(job.cell.task for job in jobs)}
        for job in jobs:
            totals[job.cell.task] += len(job.goals) * manifest.decisions[job.cell.task]
        bars = {task: bar.add_task(f"plan {task}", total=total, figures="") for task, total in totals.items()}

        def keep(job: Job, episodes: list[dict[str, Any]]) -> None:
            job.cell.add(episodes)
            solved = sum(e["success"] for e in episodes)
            bar.update(bars[job.cell.task], figures=f"{job.cell.row.label}: {solved} of the last {len(episodes)}")

        if workers == 0:
            for job in jobs:
                keep(job, run_job(job, partial(bar.advance, bars[job.cell.task], len(job.goals))))
            return
        context = multiprocessing.get_context("spawn")
        ticks = context.Queue()
        with ProcessPoolExecutor(workers, context, _start_worker, (ticks,)) as pool:
            pending: dict[Future, Job] = {pool.submit(_run_in_pool, job): job for job in jobs}
            while pending:
                ended, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                while (tick := _take(ticks)) is not None:
                    bar.advance(bars[tick[0]], tick[1])
                finished = [(pending.pop(future), future) for future in ended]
                for job, future in finished:
                    if not future.exception():
                        keep(job, future.result())
                if failed := [future for _, future in finished if future.exception()]:
                    pool.shutdown(cancel_futures=True)  # what ended is on disk; the rest would only hide the error
                    failed[0].result()


def run_job(job: Job, tick: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """Run one row on some goals; the records of its episodes."""
    each = job.cell
    manifest = frozen_goals(each.config)
    known = manifest.of(each.task, each.goals)
    goals, decisions = [known[i] for i in job.goals], manifest.decisions[each.task]
    with contextlib.closing(make(**manifest.environment)) as env:
        bounds = rows.action_bounds(env, each.config, manifest.frozen[each.task])
        own: dict[str, Any] = {"streams": job.goals, "seed": job.seed, "limit": decisions}
        controller, size = rows.controller(each.row, each.config, env, bounds, goals, **own)
        distances = [partial(_distance, each.task, positions(env, goal)[1]) for goal in goals]
        starts = [goal.start for goal in goals]
        episodes = run_episodes(env, starts, distances, controller, decisions=decisions, size=size, tick=tick)
        return [
            {
                "goal": goal.id,
                "pair": _digest(goal),
                "seed": job.seed,
                "success": outcome(env, goal, e.final, manifest.tolerance)[1],  # type: ignore[arg-type]
                "close": outcome(env, goal, e.final, manifest.close)[1],  # type: ignore[arg-type]
                "distance": e.distance,
                "actions": e.actions.tolist(),
                "stopped": e.stopped,
                "seconds": e.seconds,
                "model_steps": e.model_steps,
            }
            for goal, e in zip(goals, episodes, strict=True)
        ]


def _distance(task: str, target: np.ndarray, env: Any) -> float:
    return float(np.linalg.norm(position(env, task) - target))


def _digest(goal: GoalPair) -> str:
    """Stands for all states that an episode is about."""
    states = [goal.start, goal.goal, *(state for _, state in goal.stages)]
    return hashlib.sha256(b"".join(state.tobytes() for state in states)).hexdigest()[:16]


def _start_worker(ticks: Any) -> None:
    global _ticks  # a queue can be handed to a process when it starts, not with a job
    _ticks = ticks
    torch.set_num_threads(1)


def _run_in_pool(job: Job) -> list[dict[str, Any]]:
    return run_job(job, lambda: _ticks.put((job.cell.task, len(job.goals))))


def _take(ticks: Any) -> Any:
    try:
        return ticks.get_nowait()
    except Empty:
        return None
