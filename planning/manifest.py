"""Frozen goals: pairs of simulator states that every row of a benchmark starts from and is measured against.

They are built before anything is trained, from scenes of their own seeds, and checked by measuring each pair in the
simulator, when built and before every benchmark. A file holds the states themselves (`jepa.planning.make_goals`), or
for each goal a scene's seed and an aim, of which a scripted expert makes the states (`jepa.planning.make_task_goals`).
"""

import base64
import contextlib
import functools
import importlib.resources
import json
import re
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepa.planning.envs.base import make
from jepa.planning.experts import play
from jepa.planning.tabletop_look import Variation
from jepa.planning.tasks import TASKS, Task, centres

FORMAT = "jepa-goals-1"  # states
SCENES = "jepa-goals-2"  # seeds and aims
SHIPPED = "plan/tabletop_goals.json"


class ManifestError(ValueError):
    """A goal file that cannot be read or breaks its own rules; the message is one line."""


@dataclass(frozen=True)
class GoalPair:
    """start, goal: simulator states (n) float64; distance: metres from start to goal, in the task's coordinates.

    Where a scripted expert made the goal: `stages`, its named sub-goals, of which the last is the goal; and
    `expert`, its actions (L, 7) float32, which lead from start to goal to the bit.
    """

    id: str
    task: str
    start: np.ndarray
    goal: np.ndarray
    distance: float
    stages: tuple[tuple[str, np.ndarray], ...] = ()
    expert: np.ndarray | None = None


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


def load(path: str | Path = "", variation: Mapping[str, float] | None = None) -> Manifest:
    """Read a goal file ("" is the shipped one) and check its form; `check` measures it.

    Args:
        variation: strengths of some factors of the looks, by name, instead of the file's own (see `tabletop_look`):
            the same goals in scenes that look otherwise.

    Raises:
        ManifestError: not a goal file, or an id twice or that is no name, or a goal nearer than the rules allow.
    """
    resource = Path(path) if path else importlib.resources.files("jepa.configs").joinpath(SHIPPED)
    try:
        raw = json.loads(resource.read_text())
        if raw.get("format") == SCENES:
            raw["environment"] = _redressed(raw["environment"], variation or {})
            goals = _play(json.dumps([raw["environment"], raw["goals"]]))
        elif variation:
            raise ManifestError(f"{resource}: holds states, whose looks are fixed; give a goal file of seeds and aims")
        else:
            goals = tuple(_stored(g) for g in raw["goals"])
        manifest = Manifest(raw["environment"], raw["decisions"], raw["frozen"], raw["tolerance"], raw["close"], goals)
    except ManifestError:
        raise
    except (OSError, AttributeError, LookupError, TypeError, ValueError, zlib.error) as error:
        raise ManifestError(f"{resource}: not a goal file: {type(error).__name__} {error}") from error
    if raw.get("format") not in (FORMAT, SCENES):
        raise ManifestError(f"{resource}: format '{raw.get('format')}' is not {FORMAT} or {SCENES}")
    if twice := [k for k, n in Counter(g.id for g in goals).items() if n > 1]:
        raise ManifestError(f"{resource}: goal id {twice[0]} appears twice")
    for goal in goals:
        if not re.fullmatch(r"[\w-]+", goal.id):
            raise ManifestError(
                f"{resource}: goal id '{goal.id}': letters, digits, _ and - only; films are named by it"
            )
        allow(goal)
    return manifest


def _stored(g: dict[str, Any]) -> GoalPair:
    start, goal = unpack(g["states"])
    return GoalPair(str(g["id"]), g["task"], start, goal, float(g["distance"]), (("goal", goal),))


def _redressed(environment: dict[str, Any], variation: Mapping[str, float]) -> dict[str, Any]:
    if not variation:
        return environment
    if "variation" not in environment:
        raise ManifestError(f"the looks of environment '{environment['name']}' do not vary")
    own = asdict(Variation.of(environment["variation"]))
    if variation.get("size", own["size"]) != own["size"]:
        raise ManifestError(
            "objects of other sizes move otherwise; give them goals of their own: "
            "python -m jepa.planning.make_task_goals FOLDER size=1"
        )
    return {**environment, "variation": {**own, **variation}}


@functools.cache  # the rows of a benchmark ask again and again
def _play(text: str) -> tuple[GoalPair, ...]:
    """The goals that experts make of seeds and aims, about 10 ms each."""
    environment, records = json.loads(text)
    goals = []
    with contextlib.closing(make(**environment)) as env:
        for g in records:
            done = play(env, task_of(g["task"]).expert, g["scene"], np.array(g["aim"]))
            goal, distance = done.stages[-1][1], float(g["distance"])
            goals.append(GoalPair(str(g["id"]), g["task"], done.start, goal, distance, done.stages, done.actions))
    return tuple(goals)


def check(manifest: Manifest, env: Any) -> None:
    """Measure every pair: its distance is what the file says, it is not solved at the start, and pushes go every way.

    Raises:
        ManifestError: a pair is not what the file says, or push goals leave out a direction.
    """
    quadrants: Counter[int] = Counter()
    for goal in manifest.goals:
        start, end = positions(env, goal)
        measured = float(np.linalg.norm(end - start))
        if not abs(measured - goal.distance) <= 1e-6:
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


def pack(start: np.ndarray, goal: np.ndarray) -> str:
    """Two simulator states as text, exact to the bit."""
    return base64.b85encode(zlib.compress(np.stack([start, goal]).tobytes(), 9)).decode()


def unpack(text: str) -> tuple[np.ndarray, np.ndarray]:
    """What `pack` packed."""
    start, goal = np.frombuffer(zlib.decompress(base64.b85decode(text)), np.float64).reshape(2, -1).copy()
    return start, goal
