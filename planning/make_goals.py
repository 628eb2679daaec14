"""Builds the frozen goals of the benchmark: `python -m jepa.planning.make_goals FILE` makes the shipped ones.

To be run again when the environment changes, and before anything is trained.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from jepa.planning.envs.base import make
from jepa.planning.manifest import FORMAT, GoalPair, allow, check, load, pack, position, positions
from jepa.planning.skills import REACH

DECISIONS = {"reach": 8, "push": 8}  # the limit, the same for every row
FROZEN = {"reach": [3, 4, 5, 6], "push": [3, 4, 5]}  # no rotations, as in V-JEPA 2-AC; a reach moves no finger
TOLERANCE = 0.05  # m: success is a final distance of at most this
CLOSE = 0.03  # m: reported beside it
DISTANCE = {"reach": (0.12, 0.25), "push": (0.11, 0.20)}  # m
PUSH_HEIGHT = 0.025  # m, of the fingertips
ENVIRONMENT = {"name": "tabletop", "variation": 0.05, "num_objects": 1}
SEED, COUNT = 0, 60


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
            allow(GoalPair(pair.id, task, start, goal, distance))
            goals.append({"id": pair.id, "task": task, "distance": distance, "states": pack(start, goal)})
    rules = {"decisions": DECISIONS, "frozen": FROZEN, "tolerance": TOLERANCE, "close": CLOSE}
    return {"format": FORMAT, "environment": ENVIRONMENT, "seed": seed, **rules, "goals": goals}


def write(path: Path, contents: dict[str, Any]) -> None:
    """Write a goal file, one goal a line."""
    head = json.dumps({k: v for k, v in contents.items() if k != "goals"})[:-1]
    lines = ",\n".join(json.dumps(g) for g in contents["goals"])
    path.write_text(f'{head}, "goals": [\n{lines}\n]}}\n')


def _new_scene(env: Any, rng: np.random.Generator) -> np.ndarray:
    env.reset(seed=int(rng.integers(2**62)))
    return env.get_state()


def _reach(env: Any, rng: np.random.Generator, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The end-effector elsewhere in the workspace, fingers as they were, objects untouched."""
    low, high = DISTANCE["reach"]
    start = _new_scene(env, rng)
    pose, objects = env.ee_pose(), _objects(env)
    while True:
        xyz = rng.uniform([-REACH, -REACH, 0.03], [REACH, REACH, 0.16])
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
        if np.abs([behind, beyond]).max() > REACH:
            continue
        env.place_ee(np.array([*behind, PUSH_HEIGHT]), closedness=1.0)
        for _ in range(12):
            if (position(env, "push") - origin) @ along >= length - 0.01:
                break
            env.advance(np.array([*(0.02 * along), 0, 0, 0, 0, 0]))
        env.advance(np.zeros(7))
        moved = position(env, "push") - origin
        straight = abs(moved[0] * along[1] - moved[1] * along[0]) < 0.12 * np.linalg.norm(moved)
        if straight and low <= np.linalg.norm(moved) <= high:
            return start, env.get_state()


def _objects(env: Any) -> np.ndarray:
    return np.stack([env.object_pos(i) for i in range(env.num_objects)])


def main(path: str) -> None:
    env = make(**ENVIRONMENT)
    write(Path(path), build(env, SEED, COUNT))
    check(load(path), env)
    env.close()


if __name__ == "__main__":
    main(sys.argv[1])
