"""Frozen goals: pairs of simulator states that every row of a benchmark starts from and is measured against.

They are built before anything is trained (`jepa plan goals`). A file holds for each goal a scene's seed, which
no recorded episode has, and an aim, of which a scripted expert makes the states. Each pair is measured in the
simulator, when built and before every benchmark.
"""

import contextlib
import functools
import importlib.resources
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepa.planning.envs.base import make
from jepa.planning.experts import play
from jepa.planning.offscreen import SimulatorError
from jepa.planning.tabletop_look import Variation
from jepa.planning.tasks import TASKS, Task, centres

FORMAT = "jepa-goals-2"
SLACK = 1e-3  # m: the experts are replayed here, where maths may round otherwise, and contacts amplify that


class ManifestError(ValueError):
    """A goal file that cannot be read or breaks its own rules; the message is one line."""


@dataclass(frozen=True)
class GoalPair:
    """start, goal: simulator states (n) float64; distance: metres from start to goal, in the task's coordinates.

    stages: named sub-goals, of which the last is the goal. expert: actions (L, A) float32 of the scripted expert, which
    lead from start to goal to the bit.
    """

    id: str
    task: str
    start: np.ndarray
    goal: np.ndarray
    distance: float
    stages: tuple[tuple[str, np.ndarray], ...]
    expert: np.ndarray


@dataclass(frozen=True)
class Manifest:
    """environment: arguments of `envs.base.make`; lengths in metres.

    decisions: the limit of each task. frozen: the action axes that each task holds at 0. Both bind every row.
    """

    environment: dict[str, Any]
    decisions: dict[str, int]
    frozen: dict[str, list[int]]
    tolerance: float
    close: float
    goals: tuple[GoalPair, ...]

    def of(self, task: str, count: int) -> tuple[GoalPair, ...]:
        """The first `count` goals of a task. Raises ManifestError if there are fewer."""
        goals = tuple(g for g in self.goals if g.task == task)
        if not 1 <= count <= len(goals):
            raise ManifestError(f"{count} goals of task '{task}' asked for; the goal file has {len(goals)}")
        return goals[:count]


def task_of(name: str) -> Task:
    """The task of that name. Raises ManifestError if there is none."""
    if name not in TASKS:
        raise ManifestError(f"no task '{name}'; there are: {', '.join(TASKS)}")
    return TASKS[name]


def position(env: Any, task: str) -> np.ndarray:
    """What a task is measured by, in metres, as `env` stands."""
    return task_of(task).measure(env)


def positions(env: Any, goal: GoalPair) -> tuple[np.ndarray, np.ndarray]:
    """The task's coordinates at the start and at the goal."""
    env.set_state(goal.start)
    start = position(env, goal.task).copy()
    env.set_state(goal.goal)
    return start, position(env, goal.task).copy()


def outcome(env: Any, goal: GoalPair, state: np.ndarray, tolerance: float) -> tuple[float, bool]:
    """How far from the goal `state` is, in metres, and whether the task is done in it."""
    target = positions(env, goal)[1]
    env.set_state(goal.start)
    rest = centres(env)
    env.set_state(state)
    distance = float(np.linalg.norm(position(env, goal.task) - target))
    return distance, distance <= tolerance and task_of(goal.task).holds(env, rest)


def load(path: str | Path, variation: Mapping[str, float] | None = None) -> Manifest:
    """Read a goal file (or, by its name, a shipped one of configs/plan) and check its form; `check` measures it.

    Args:
        variation: strengths of some factors of the looks, by name, instead of the file's own (see `tabletop_look`):
            the same goals in scenes that look otherwise.

    Raises:
        ManifestError: not a goal file, or an id twice or that is no name, or a goal nearer than the rules allow.
        SimulatorError: its environment is not installed.
    """
    shipped = importlib.resources.files("jepa.configs") / "plan" / str(path)
    resource = Path(path) if Path(path).is_file() or not shipped.is_file() else shipped
    try:
        raw = json.loads(resource.read_text())
        if raw["format"] != FORMAT:
            raise ManifestError(f"{resource}: format '{raw['format']}' is not {FORMAT}")
        environment = _redressed(raw["environment"], variation or {})
        goals = _play(json.dumps([environment, raw["goals"]]))
        manifest = Manifest(environment, raw["decisions"], raw["frozen"], raw["tolerance"], raw["close"], goals)
    except (ManifestError, SimulatorError):
        raise
    except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ManifestError(f"{resource}: not a goal file: {type(error).__name__} {error}") from error
    if twice := [k for k, n in Counter(g.id for g in goals).items() if n > 1]:
        raise ManifestError(f"{resource}: goal id {twice[0]} appears twice")
    for goal in goals:
        if not re.fullmatch(r"[\w-]+", goal.id):
            raise ManifestError(
                f"{resource}: goal id '{goal.id}': letters, digits, _ and - only; films are named by it"
            )
        allow(goal)
    return manifest


def _redressed(environment: dict[str, Any], variation: Mapping[str, float]) -> dict[str, Any]:
    if not variation:
        return environment
    if "variation" not in environment:
        raise ManifestError(f"the looks of environment '{environment['name']}' do not vary")
    own = asdict(Variation.of(environment["variation"]))
    if variation.get("size", own["size"]) != own["size"]:
        raise ManifestError(
            "objects of other sizes move otherwise; give them goals of their own: "
            "python -m jepa.planning.make_goals FOLDER size=1"
        )
    return {**environment, "variation": {**own, **variation}}


@functools.cache  # the rows of a benchmark ask again and again
def _play(text: str) -> tuple[GoalPair, ...]:
    """The goals of a file, about 10 ms each; on the arms of other packages up to 200."""
    environment, records = json.loads(text)
    with contextlib.closing(make(**environment)) as env:
        return tuple(pair(env, str(g["id"]), g["task"], g["scene"], g["aim"], float(g["distance"])) for g in records)


def pair(env: Any, name: str, task: str, scene: int, aim: Sequence[float], distance: float = 0.0) -> GoalPair:
    """What a task's expert makes of the scene of seed `scene` and `aim` (see `experts`)."""
    done = play(env, task_of(task).expert, scene, np.array(aim))
    return GoalPair(name, task, done.start, done.stages[-1][1], distance, done.stages, done.actions)


def check(manifest: Manifest, env: Any) -> None:
    """Measure every pair: its distance is what the file says, it is not solved at the start, and pushes go every way.

    Raises:
        ManifestError: a pair is not what the file says, or push goals leave out a direction.
    """
    quadrants: Counter[int] = Counter()
    for goal in manifest.goals:
        start, end = positions(env, goal)
        measured = float(np.linalg.norm(end - start))
        if not abs(measured - goal.distance) <= SLACK:
            raise ManifestError(f"goal {goal.id} is {measured:.4f} m away, the file says {goal.distance:.4f} m")
        if outcome(env, goal, goal.start, manifest.tolerance)[1] or not outcome(env, goal, goal.goal, 0.0)[1]:
            raise ManifestError(f"goal {goal.id}: the task is done at the start, or not done at the goal")
        if goal.task == "push":
            quadrants[int(np.arctan2(*(end - start)[::-1]) % (2 * np.pi) // (np.pi / 2))] += 1
    pushes = sum(quadrants.values())
    if pushes >= 20 and min(quadrants[q] for q in range(4)) < 0.15 * pushes:
        raise ManifestError(f"push goals are not spread over all directions: {dict(quadrants)} per quadrant")


def allow(goal: GoalPair) -> None:
    """Raise ManifestError for a goal nearer than its task's minimum."""
    least = task_of(goal.task).least
    if not goal.distance >= least:
        raise ManifestError(
            f"goal {goal.id}: {goal.distance:.3f} m breaks the least distance of {goal.task}: {least} m"
        )
