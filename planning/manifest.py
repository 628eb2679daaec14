"""Frozen goals: pairs of simulator states that every row of a benchmark starts from and is measured against.

They are built before anything is trained (`jepa.planning.make_goals`), from scenes of their own seeds, and checked
by measuring each pair in the simulator, when built and before every benchmark.
"""

import base64
import importlib.resources
import json
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "jepa-goals-1"
MINIMUM = {"reach": 0.12, "push": 0.10}  # m: no goal starts nearer than this
SHIPPED = "plan/tabletop_goals.json"


class ManifestError(ValueError):
    """A goal file that cannot be read or breaks its own rules; the message is one line."""


@dataclass(frozen=True)
class GoalPair:
    """start, goal: simulator states (n) float64; distance: metres from start to goal, in the task's coordinates."""

    id: str
    task: str
    start: np.ndarray
    goal: np.ndarray
    distance: float


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


def position(env: Any, task: str) -> np.ndarray:
    """What a task is measured by, in metres: the end-effector's xyz (reach), the first object's xy (push)."""
    if task == "reach":
        return np.asarray(env.ee_pose())[:3]
    if task == "push":
        return np.asarray(env.object_pos(0))[:2]
    raise ManifestError(f"no task '{task}'; there are: {', '.join(MINIMUM)}")


def positions(env: Any, goal: GoalPair) -> tuple[np.ndarray, np.ndarray]:
    """The task's coordinates at the start and at the goal."""
    env.set_state(goal.start)
    start = position(env, goal.task).copy()
    env.set_state(goal.goal)
    return start, position(env, goal.task).copy()


def load(path: str | Path = "") -> Manifest:
    """Read a goal file ("" is the shipped one) and check its form; `check` measures it.

    Raises:
        ManifestError: not a goal file, or an id twice, or a goal nearer than the rules allow.
    """
    resource = Path(path) if path else importlib.resources.files("jepa.configs").joinpath(SHIPPED)
    try:
        raw = json.loads(resource.read_text())
        goals = tuple(GoalPair(g["id"], g["task"], *unpack(g["states"]), float(g["distance"])) for g in raw["goals"])
        manifest = Manifest(raw["environment"], raw["decisions"], raw["frozen"], raw["tolerance"], raw["close"], goals)
    except (OSError, KeyError, TypeError, ValueError, zlib.error) as error:
        raise ManifestError(f"{resource}: not a goal file: {type(error).__name__} {error}") from error
    if raw.get("format") != FORMAT:
        raise ManifestError(f"{resource}: format '{raw.get('format')}' is not {FORMAT}")
    if twice := [k for k, n in Counter(g.id for g in goals).items() if n > 1]:
        raise ManifestError(f"{resource}: goal id {twice[0]} appears twice")
    for goal in goals:
        allow(goal)
    return manifest


def check(manifest: Manifest, env: Any) -> None:
    """Measure every pair in the simulator: the distance it states is the true one, and pushes go every way.

    Raises:
        ManifestError: a pair's distance is not what the file says, or push goals leave out a direction.
    """
    quadrants: Counter[int] = Counter()
    for goal in manifest.goals:
        start, end = positions(env, goal)
        measured = float(np.linalg.norm(end - start))
        if not abs(measured - goal.distance) <= 1e-6:
            raise ManifestError(f"goal {goal.id} is {measured:.4f} m away, the file says {goal.distance:.4f} m")
        if goal.task == "push":
            quadrants[int(np.arctan2(*(end - start)[::-1]) % (2 * np.pi) // (np.pi / 2))] += 1
    pushes = sum(quadrants.values())
    if pushes >= 20 and min(quadrants[q] for q in range(4)) < 0.15 * pushes:
        raise ManifestError(f"push goals are not spread over all directions: {dict(quadrants)} per quadrant")


def allow(goal: GoalPair) -> None:
    """Raise ManifestError for a goal nearer than its task's minimum."""
    least = MINIMUM.get(goal.task)
    if least is None or not goal.distance >= least:
        raise ManifestError(f"goal {goal.id}: task '{goal.task}' at {goal.distance:.3f} m breaks {MINIMUM} m")


def pack(start: np.ndarray, goal: np.ndarray) -> str:
    """Two simulator states as text, exact to the bit."""
    return base64.b85encode(zlib.compress(np.stack([start, goal]).tobytes(), 9)).decode()


def unpack(text: str) -> tuple[np.ndarray, np.ndarray]:
    """What `pack` packed."""
    start, goal = np.frombuffer(zlib.decompress(base64.b85decode(text)), np.float64).reshape(2, -1).copy()
    return start, goal
