"""Frozen goals: pairs of simulator states that every row of a benchmark starts from and is measured against.

They are built before anything is trained, from scenes of their own seeds, and checked by measuring each pair in
the simulator, when built and whenever loaded. `python -m jepa.planning.manifest FILE` builds the shipped ones.
"""

import base64
import importlib.resources
import json
import sys
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jepa.planning.envs.base import make

FORMAT = "jepa-goals-1"
DECISIONS = {"reach": 8, "push": 12}  # the limit, the same for every row
TOLERANCE = 0.05  # m: success is a final distance of at most this
CLOSE = 0.03  # m: reported beside it
MINIMUM = {"reach": 0.12, "push": 0.10}  # m: no goal starts nearer than this
DISTANCE = {"reach": (0.14, 0.30), "push": (0.11, 0.20)}  # m: what is built
PUSH_HEIGHT = 0.025  # m, of the fingertips
ENVIRONMENT = {"name": "tabletop", "variation": 1.0, "num_objects": 1}
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
    """environment: arguments of `envs.base.make`; decisions: the limit of each task; lengths in metres."""

    environment: dict[str, Any]
    decisions: dict[str, int]
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
    raise ManifestError(f"no task '{task}'; there are: {', '.join(DECISIONS)}")


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
        if raw["format"] != FORMAT:
            raise ManifestError(f"{resource}: format '{raw['format']}' is not {FORMAT}")
        goals = tuple(GoalPair(g["id"], g["task"], *_unpack(g["states"]), float(g["distance"])) for g in raw["goals"])
        manifest = Manifest(raw["environment"], raw["decisions"], raw["tolerance"], raw["close"], goals)
    except (OSError, KeyError, TypeError, json.JSONDecodeError, zlib.error) as error:
        raise ManifestError(f"{resource}: not a goal file: {type(error).__name__} {error}") from error
    if twice := [k for k, n in Counter(g.id for g in goals).items() if n > 1]:
        raise ManifestError(f"{resource}: goal id {twice[0]} appears twice")
    for goal in goals:
        _allow(goal)
    return manifest


def check(manifest: Manifest, env: Any) -> None:
    """Measure every pair in the simulator: the distance it states is the true one, and pushes go every way.

    Raises:
        ManifestError: a pair's distance is not what the file says, or push goals leave out a direction.
    """
    quadrants = Counter()
    for goal in manifest.goals:
        start, end = positions(env, goal)
        measured = float(np.linalg.norm(end - start))
        if abs(measured - goal.distance) > 1e-6:
            raise ManifestError(f"goal {goal.id} is {measured:.4f} m away, the file says {goal.distance:.4f} m")
        if goal.task == "push":
            quadrants[int(np.arctan2(*(end - start)[::-1]) % (2 * np.pi) // (np.pi / 2))] += 1
    pushes = sum(quadrants.values())
    if pushes >= 20 and min(quadrants[q] for q in range(4)) < 0.15 * pushes:
        raise ManifestError(f"push goals are not spread over all directions: {dict(quadrants)} per quadrant")


def build(env: Any, seed: int, count: int) -> dict[str, Any]:
    """The goal file's contents: `count` goals of each task, from `env` made with ENVIRONMENT."""
    goals = []
    for t, (task, draw) in enumerate({"reach": _reach, "push": _push}.items()):
        for i in range(count):
            # A spawn key of its own: no scene of a collected episode can come up here.
            sequence = np.random.SeedSequence(seed, spawn_key=(int.from_bytes(b"goals", "big"), t, i))
            rng = np.random.default_rng(sequence)
            start, goal = draw(env, rng, i)
            pair = GoalPair(f"{task}-{i:03d}", task, start, goal, 0.0)
            distance = float(np.linalg.norm(np.subtract(*positions(env, pair))))
            _allow(GoalPair(pair.id, task, start, goal, distance))
            packed = base64.b85encode(zlib.compress(np.stack([start, goal]).tobytes(), 9)).decode()
            goals.append({"id": pair.id, "task": task, "distance": distance, "states": packed})
    rules = {"decisions": DECISIONS, "tolerance": TOLERANCE, "close": CLOSE}
    return {"format": FORMAT, "environment": ENVIRONMENT, "seed": seed, **rules, "goals": goals}


def write(path: Path, contents: dict[str, Any]) -> None:
    """Write a goal file, one goal a line."""
    head = json.dumps({k: v for k, v in contents.items() if k != "goals"})[:-1]
    lines = ",\n".join(json.dumps(g) for g in contents["goals"])
    path.write_text(f'{head}, "goals": [\n{lines}\n]}}\n')


def _allow(goal: GoalPair) -> None:
    least = MINIMUM.get(goal.task)
    if least is None or goal.distance < least:
        raise ManifestError(f"goal {goal.id}: task '{goal.task}' at {goal.distance:.3f} m breaks {MINIMUM} m")


def _unpack(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), np.float64).reshape(2, -1).copy()


def _new_scene(env: Any, rng: np.random.Generator) -> np.ndarray:
    env.reset(seed=int(rng.integers(2**62)))
    return env.get_state()


def _reach(env: Any, rng: np.random.Generator, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The end-effector elsewhere in the workspace, fingers as they were, objects untouched."""
    low, high = DISTANCE["reach"]
    start = _new_scene(env, rng)
    pose, objects = env.ee_pose(), _objects(env)
    while True:
        xyz = rng.uniform([-0.2, -0.2, 0.03], [0.2, 0.2, 0.22])
        if not low <= np.linalg.norm(xyz - pose[:3]) <= high:
            continue
        env.set_state(start)
        env.place_ee(xyz, closedness=pose[6])
        arrived = np.linalg.norm(env.ee_pose()[:3] - xyz) < 0.003
        if arrived and np.abs(_objects(env) - objects).max() < 0.001:
            return start, env.get_state()


def _push(env: Any, rng: np.random.Generator, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The object where a straight push with closed fingers took it; the end-effector still behind it.

    Directions follow the golden ratio round the circle, so that any number of goals covers all of them evenly.
    """
    angle = 2 * np.pi * ((index * 0.6180339887498949) % 1.0)
    along = np.array([np.cos(angle), np.sin(angle)])
    low, high = DISTANCE["push"]
    while True:
        start = _new_scene(env, rng)
        origin, length = position(env, "push").copy(), rng.uniform(low, high)
        behind, beyond = origin - 0.08 * along, origin + length * along
        if np.abs([behind, beyond]).max() > 0.2:
            continue
        env.place_ee(np.array([*behind, PUSH_HEIGHT]), closedness=1.0)
        for _ in range(12):
            if (position(env, "push") - origin) @ along >= length - 0.01:
                break
            env.advance(np.array([*(0.02 * along), 0, 0, 0, 0, 0]))
        env.advance(np.zeros(7))
        moved = position(env, "push") - origin
        straight = abs(moved[0] * along[1] - moved[1] * along[0]) < 0.2 * np.linalg.norm(moved)
        if straight and low <= np.linalg.norm(moved) <= high:
            return start, env.get_state()


def _objects(env: Any) -> np.ndarray:
    return np.stack([env.object_pos(i) for i in range(env.num_objects)])


def main(path: str) -> None:
    env = make(**ENVIRONMENT)
    write(Path(path), build(env, seed=0, count=60))
    check(load(path), env)
    env.close()


if __name__ == "__main__":
    main(sys.argv[1])
