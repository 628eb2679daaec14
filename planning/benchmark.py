"""The planning benchmark: every row on the same frozen goals, one resumable job for each (task, row).

Rows: ours, the same with a random-init encoder, random actions, doing nothing, and planning in the true simulator.
A job writes OUT/TASK_ROW.json; one already there with the same key (settings, goals, weights) is kept.
"""

import hashlib
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch

from jepa.checkpoint import CheckpointError, latest
from jepa.config import plugin, to_dict
from jepa.logs import console, progress_bar
from jepa.planning import films, rows
from jepa.planning.envs.base import make
from jepa.planning.manifest import Manifest, check, load, position, positions
from jepa.planning.mpc import run_episodes
from jepa.planning.results import summarise, tables

FILMED = "ours"
_ticks: Any = None
WORLDS = {"ours": "world", "control": "control"}  # the rows that plan with a trained world, and its config key


@dataclass(frozen=True)
class PlanConfig:
    world: str = "???"  # run folder of a post-training
    control: str = ""  # run folder of a post-training on a random-init encoder; "" leaves the row out
    out: str = "???"
    manifest: str = ""  # goal file; "" is the shipped one
    tasks: tuple[str, ...] = ("reach", "push")
    goals: int = 50
    oracle_goals: int = 20
    planner: Any = plugin("jepa.planning.planners", "cem")
    oracle: Any = plugin("jepa.planning.planners", "cem")
    step_fraction: float = 1.0  # of the environment's action limits
    batch: int = 8  # episodes planned together
    films: int = 2  # of each task
    seed: int = 0
    workers: int = 2  # processes; 0 runs the jobs in this one


@dataclass(frozen=True)
class Job:
    config: PlanConfig
    task: str
    row: str
    goals: int
    key: str

    @property
    def path(self) -> Path:
        return Path(self.config.out) / f"{self.task}_{self.row}.json"

    def result(self) -> dict[str, Any] | None:
        """The record of this very job, None when it has not been run."""
        try:
            record = json.loads(self.path.read_text())
        except (OSError, json.JSONDecodeError):
            return None
        return record if record.get("key") == self.key else None


def run(config: PlanConfig) -> Path:
    """Run what is missing, then write OUT/results.json and print the tables; returns the file's path.

    Raises:
        ManifestError: the goal file breaks its rules. CheckpointError: a world is missing.
    """
    manifest = load(config.manifest)
    env = make(**manifest.environment)
    check(manifest, env)
    env.close()
    jobs = plan_jobs(config, manifest)
    work([job for job in jobs if job.result() is None], manifest, config.workers)
    records = summarise([job.result() for job in jobs])  # type: ignore[misc]
    omitted = {} if config.control else {"control": "no control=… given: nothing says that pre-training helped"}
    lengths = {"tolerance": manifest.tolerance, "close": manifest.close}
    path = Path(config.out) / "results.json"
    contents = {"config": to_dict(config), **lengths, "rows": records, "omitted": omitted}
    path.write_text(json.dumps(contents, indent=1))
    console.print(tables(records, **lengths))
    for row, reason in omitted.items():
        console.print(f"row '{rows.LABELS[row]}' left out: {reason}")
    return path


def plan_jobs(config: PlanConfig, manifest: Manifest) -> list[Job]:
    """Every (task, row), in the order of the table; the key changes with all that the result depends on."""
    wanted = [row for row in rows.LABELS if row != "control" or config.control]
    jobs = []
    for task in config.tasks:
        for row in wanted:
            count = min(config.goals, config.oracle_goals) if row == "oracle" else config.goals
            goals = [[g.id, g.start.tobytes().hex(), g.goal.tobytes().hex()] for g in manifest.of(task, count)]
            means: dict[str, Any] = {"decisions": manifest.decisions[task], "env": manifest.environment}
            means |= {"seed": config.seed, "step_fraction": config.step_fraction, "frozen": manifest.frozen[task]}
            means |= {"tolerance": manifest.tolerance, "close": manifest.close}
            if row in WORLDS:
                run_dir = getattr(config, WORLDS[row])
                means |= {"planner": to_dict(config)["planner"], "weights": _weights(run_dir)}
            if row == "oracle":
                means["planner"] = to_dict(config)["oracle"]
            if row == FILMED:
                means["films"] = config.films
            key = hashlib.sha256(json.dumps([task, row, goals, means]).encode()).hexdigest()
            jobs.append(Job(config, task, row, count, key))
    return jobs


def work(jobs: list[Job], manifest: Manifest, workers: int) -> None:
    """Run jobs, those that plan first, in a pool of spawned processes (or here), with progress by decision."""
    jobs = sorted(jobs, key=lambda job: (job.row not in WORLDS, job.row != "oracle"))
    with progress_bar() as bar:
        tasks = {
            (j.task, j.row): bar.add_task(
                f"plan {j.task}: {rows.LABELS[j.row]}", total=manifest.decisions[j.task], figures=""
            )
            for j in jobs
        }
        if workers == 0:
            for job in jobs:
                run_job(job, partial(bar.advance, tasks[job.task, job.row]))
            return
        context = multiprocessing.get_context("spawn")
        ticks = context.Queue()
        with ProcessPoolExecutor(workers, context, _start_worker, (ticks,)) as pool:
            pending = {pool.submit(_run_in_pool, job) for job in jobs}
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                while (tick := _take(ticks)) is not None:
                    bar.advance(tasks[tick])
                if failed := [future for future in done if future.exception()]:
                    pool.shutdown(cancel_futures=True)  # finished jobs are on disk; the rest would only hide the error
                    failed[0].result()


def run_job(job: Job, tick: Callable[[], None] = lambda: None) -> None:
    """Run one row on one task's goals and write its record (and its films)."""
    config, manifest = job.config, load(job.config.manifest)
    goals = manifest.of(job.task, job.goals)
    env = make(**manifest.environment)
    try:
        bounds = rows.action_bounds(env, config.step_fraction, manifest.frozen[job.task])
        controller, size = rows.controller(job.row, job.task, config, env, bounds, [g.goal for g in goals])
        distances = [partial(_distance, job.task, positions(env, goal)[1]) for goal in goals]
        episodes = run_episodes(
            env,
            [g.start for g in goals],
            distances,
            controller,
            decisions=manifest.decisions[job.task],
            size=size,
            tick=tick,
        )
        solved = [e.distance[-1] <= manifest.tolerance for e in episodes]
        filmed = []
        for i in films.choose(solved, config.films) if job.row == FILMED else []:
            env.set_state(goals[i].goal)
            name = f"{goals[i].id}_{'success' if solved[i] else 'failure'}.gif"
            films.write(job.path.parent / "films" / name, episodes[i], env.render_at(size))
            filmed.append(f"films/{name}")
    finally:
        env.close()
    record = {
        "key": job.key,
        "task": job.task,
        "row": job.row,
        "label": rows.LABELS[job.row],
        "seed": config.seed,
        "seconds": episodes[0].seconds,
        "model_steps": episodes[0].model_steps,
        "films": filmed,
        "episodes": [
            {
                "goal": goal.id,
                "success": done,
                "close": e.distance[-1] <= manifest.close,
                "distance": e.distance,
                "actions": e.actions.tolist(),
            }
            for goal, e, done in zip(goals, episodes, solved, strict=True)
        ],
    }
    job.path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = job.path.with_suffix(".partial")
    unfinished.write_text(json.dumps(record))
    unfinished.replace(job.path)


def _distance(task: str, target: np.ndarray, env: Any) -> float:
    return float(np.linalg.norm(position(env, task) - target))


def _weights(run_dir: str) -> str:
    folder, problems = latest(Path(run_dir))
    if folder is None:
        raise CheckpointError(problems[0] if problems else f"no checkpoint of a post-training in {run_dir}")
    return (folder / "state.json").read_text()


def _start_worker(ticks: Any) -> None:
    global _ticks  # a queue can be handed to a process when it starts, not with a job
    _ticks = ticks
    torch.set_num_threads(1)


def _run_in_pool(job: Job) -> None:
    run_job(job, lambda: _ticks.put((job.task, job.row)))


def _take(ticks: Any) -> Any:
    try:
        return ticks.get_nowait()
    except Empty:
        return None
