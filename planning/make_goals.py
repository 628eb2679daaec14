"""Builds frozen goals, each made by a scripted expert: `jepa plan goals` those of one environment.

`python -m jepa.planning.make_goals FOLDER` builds those of configs/plan, for which every environment must be installed;
to be run again when an environment or the experts change, and before anything is trained. Strengths of single factors
of the tabletop's looks may follow, as in `FOLDER size=1`, for goals with objects that no training episode shows.
"""

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jepa.config import ConfigError
from jepa.logs import progress_bar
from jepa.planning.envs.base import make
from jepa.planning.experts import BEHIND
from jepa.planning.manifest import FORMAT, check, load, outcome, pair, positions, task_of
from jepa.planning.skills import REACH
from jepa.planning.tabletop_look import Variation
from jepa.planning.tasks import TASKS, centres

LOOKS = 0.05  # variation, as in the demo's episodes
TABLETOP = {"name": "tabletop", "variation": LOOKS}
FILES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {  # name: environment, goals of each task
    "tabletop_tasks.json": (TABLETOP, {"reach": 100, "push": 100, "grasp": 30, "pick_and_place": 30}),
    "tabletop_two_objects.json": ({**TABLETOP, "num_objects": 2}, {"push_beside": 30}),
    "pusht_goals.json": ({"name": "pusht"}, {"push_t": 30}),
    **{f"{arm}_goals.json": ({"name": arm}, {"reach": 30, "push": 30}) for arm in ("fetch", "metaworld", "ogbench")},
}
TRIES = 2000  # scenes for one goal; in most an object is too near the edge to be pushed the way that is asked
TOLERANCE = 0.05  # m: success is a final distance of at most this
CLOSE = 0.03  # m: reported beside it
SPOT = 0.11  # m: largest |x| and |y| where an object is put
BESIDE = (0.075, 0.10)  # m between the centres of two objects that are beside each other
Aim = Callable[[Any, np.random.Generator, int], np.ndarray | None]


def freeze(path: Path, environment: dict[str, Any], counts: dict[str, int], seed: int = 0) -> None:
    """Build a goal file of `counts` goals of each task, and measure it as every benchmark will.

    Args:
        environment: arguments of `envs.base.make`.

    Raises:
        ConfigError: no such environment or option, or it cannot ask one of the tasks. ManifestError: no such task.
        SimulatorError: the environment is not installed.
    """
    with contextlib.closing(make(**environment)) as env, progress_bar() as bar:
        path.parent.mkdir(parents=True, exist_ok=True)
        tick = partial(bar.advance, bar.add_task(path.name, total=sum(counts.values()), figures=""))
        write(path, build(env, seed, counts, environment, tick))
        check(load(path), env)


def build(
    env: Any,
    seed: int,
    counts: dict[str, int],
    environment: dict[str, Any],
    tick: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """A goal file's contents: `counts` goals of each task, from `env` made with `environment`.

    The first goals are the same for any count. `tick` is called after each.

    Raises:
        ManifestError: no such task. ConfigError: `env` cannot ask it, or its expert does it in no scene.
    """
    if unsuited := [task for task in counts if not _suits(env, task)]:
        known = ", ".join(task for task in TASKS if _suits(env, task))
        what = f"{env.name} with {env.num_objects} object{'s' * (env.num_objects > 1)}"
        raise ConfigError(f"task '{unsuited[0]}' cannot be asked in {what}; there are: {known}")
    goals = []
    for task, count in counts.items():
        for i in range(count):
            # A spawn key of its own: no scene of a collected episode can come up here.
            key = (int.from_bytes(b"tasks", "big"), list(TASKS).index(task), i)
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
            goals.append({"id": f"{task}-{i:03d}", "task": task, **_draw(env, task, rng, i)})
            tick()
    limits = {
        "decisions": {t: TASKS[t].decisions for t in counts},
        "frozen": {t: list(TASKS[t].frozen) for t in counts},
    }
    rules = {**limits, "tolerance": TOLERANCE, "close": CLOSE}
    return {"format": FORMAT, "environment": environment, "seed": seed, **rules, "goals": goals}


def write(path: Path, contents: dict[str, Any]) -> None:
    """Write a goal file, one goal a line."""
    head = json.dumps({k: v for k, v in contents.items() if k != "goals"})[:-1]
    lines = ",\n".join(json.dumps(g) for g in contents["goals"])
    path.write_text(f'{head}, "goals": [\n{lines}\n]}}\n')


def _suits(env: Any, name: str) -> bool:
    """Are there the T, the other object or the arm that a task speaks of?"""
    task_of(name)
    arm = len(env.workspace[0]) == 3
    return {"push_t": hasattr(env, "corners"), "push_beside": arm and env.num_objects > 1}.get(name, arm)


def _draw(env: Any, name: str, rng: np.random.Generator, index: int) -> dict[str, Any]:
    """A scene and an aim for which the expert does the task, in time, at a distance that the task allows."""
    task = TASKS[name]
    for _ in range(TRIES):
        scene = int(rng.integers(2**62))
        env.reset(seed=scene)
        before = centres(env)
        if (aim := AIMS[name](env, rng, index)) is None:
            continue
        aim = np.round(aim, 4)  # short in the file, and no less a goal
        goal = pair(env, "", name, scene, aim)
        fits = FITS[name](env, before) if name in FITS else True
        distance = float(np.linalg.norm(np.subtract(*positions(env, goal))))
        succeeds = outcome(env, goal, goal.goal, TOLERANCE)[1] and not outcome(env, goal, goal.start, TOLERANCE)[1]
        in_time = len(goal.expert) <= task.decisions
        if succeeds and in_time and task.least <= distance <= task.most and fits:
            return {"scene": scene, "aim": aim.tolist(), "distance": distance}
    raise ConfigError(f"task '{name}': in {TRIES} scenes of {env.name} its expert never did it as it is asked")


# --- where each task's expert is sent; None: not in this scene ---------------------------------------------------


def _anywhere(env: Any, rng: np.random.Generator, index: int) -> np.ndarray | None:
    aim = rng.uniform([-REACH, -REACH, 0.03], [REACH, REACH, 0.16])
    return aim if np.linalg.norm(aim - env.ee_pose()[:3]) > 0.02 else None  # else the expert has nothing to do


def _every_way(env: Any, rng: np.random.Generator, index: int) -> np.ndarray | None:
    """Directions follow the golden ratio round the circle, so that any number of goals covers them evenly."""
    heading = 2 * np.pi * ((index * 0.6180339887498949) % 1.0)
    return _pushable(env, heading, rng.uniform(0.11, 0.20))


def _to_the_other(env: Any, rng: np.random.Generator, index: int) -> np.ndarray | None:
    way = env.object_pos(1)[:2] - env.object_pos(0)[:2]
    return _pushable(env, float(np.arctan2(way[1], way[0])), float(np.linalg.norm(way)) - BESIDE[0])


def _pushable(env: Any, heading: float, length: float) -> np.ndarray | None:
    way, here = np.array([np.cos(heading), np.sin(heading)]), env.object_pos()[:2]
    room = np.abs([here - BEHIND * way, here + length * way]).max() <= REACH
    return np.array([heading, length]) if room and length >= TASKS["push"].least else None


def _up(env: Any, rng: np.random.Generator, index: int) -> np.ndarray:
    return rng.uniform([0.115], [0.16])


def _elsewhere(env: Any, rng: np.random.Generator, index: int) -> np.ndarray:
    return rng.uniform(-SPOT, SPOT, 2)


def _through(env: Any, rng: np.random.Generator, index: int) -> np.ndarray:
    point = (env.corners()[rng.integers(8)] + env.object_pos()[:2]) / 2
    return np.array([rng.uniform(-np.pi, np.pi), rng.uniform(0.02, 0.15), *point])


AIMS: dict[str, Aim] = {
    "reach": _anywhere,
    "push": _every_way,
    "grasp": _up,
    "pick_and_place": _elsewhere,
    "push_beside": _to_the_other,
    "push_t": _through,
}


def _undisturbed(env: Any, before: np.ndarray) -> bool:
    return bool(np.abs(centres(env) - before).max() < 0.001)


def _beside(env: Any, before: np.ndarray) -> bool:
    return bool(np.linalg.norm(env.object_pos(0)[:2] - env.object_pos(1)[:2]) <= BESIDE[1])


FITS = {"reach": _undisturbed, "push_beside": _beside}


def main(folder: str, *factors: str) -> None:
    looks = {f.name: LOOKS for f in fields(Variation)} | {k: float(v) for k, v in (f.split("=") for f in factors)}
    for name, (environment, counts) in FILES.items():
        if not factors:
            freeze(Path(folder) / name, environment, counts)
        elif "variation" in environment:
            freeze(Path(folder) / name, {**environment, "variation": looks}, counts)


if __name__ == "__main__":
    main(*sys.argv[1:])
