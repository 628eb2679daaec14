"""Scripted experts that do each task, stage by stage and without noise: they make the goals.

An expert is a generator over the true state: it looks, yields (stage, action), and looks again. What it does follows
from the state and its aim alone, so that a scene's seed and an aim stand for the whole demonstration.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from jepa.planning.envs.base import PlanningEnv
from jepa.planning.skills import CLEAR, LOW, towards

BEHIND = 0.08  # m between the fingertips and the centre of an object about to be pushed
BEHIND_T = 0.12  # m between the pusher of PushT and the point it is about to push through
STEPS = 40  # no expert needs more
Moves = Iterator[tuple[str, np.ndarray]]
Expert = Callable[[PlanningEnv, np.ndarray], Moves]


@dataclass(frozen=True)
class Demonstration:
    """start and the state at the end of each stage (n) float64, stages in order; actions (L, 7) float32."""

    start: np.ndarray
    stages: tuple[tuple[str, np.ndarray], ...]
    actions: np.ndarray


def reach(env: PlanningEnv, aim: np.ndarray) -> Moves:
    """Straight to aim (3): x, y, z in m. The fingers stay as they are."""
    for action in _go(env, aim, 0.0):
        action[6] = 0.0
        yield "reached", action


def push(env: PlanningEnv, aim: np.ndarray) -> Moves:
    """Push the first object along aim (2): heading (rad) and length (m); with closed fingers, from right behind it."""
    heading, length = aim
    way = np.array([np.cos(heading), np.sin(heading)])
    start = env.object_pos()[:2]
    behind = start - BEHIND * way
    if env.ee_pose()[2] < CLEAR - 0.02:
        yield from _stage("behind", _go(env, np.array([*env.ee_pose()[:2], CLEAR]), 1.0))
    for height in (CLEAR, LOW):
        yield from _stage("behind", _go(env, np.array([*behind, height]), 1.0))
    while (ahead := length - (env.object_pos()[:2] - start) @ way) > 0.005:
        # Aim through the object, wherever it slipped to, and correct sideways by way of the fingers' place behind it.
        beside = env.object_pos()[:2] - start
        across = beside - (beside @ way) * way
        point = env.object_pos()[:2] + 0.5 * across + (min(ahead, 0.06) - 0.042) * way
        if np.linalg.norm(point - env.ee_pose()[:2]) < 0.004:
            return  # the object is smaller than the tabletop's: the hand is there, and does not touch it any more
        yield "halfway" if ahead > 0.5 * length else "pushed", towards(env, np.array([*point, LOW]), 1.0, 0.7)


def grasp(env: PlanningEnv, aim: np.ndarray) -> Moves:
    """Take the first object and lift it to the height aim (1), in m."""
    above = np.array([*env.object_pos()[:2], CLEAR])
    if env.ee_pose()[2] < CLEAR - 0.02:
        yield from _stage("above", _go(env, np.array([*env.ee_pose()[:2], CLEAR]), 0.0))
    yield from _stage("above", _go(env, above, 0.0, near=0.004))
    yield from _stage("grasped", _go(env, np.array([*above[:2], LOW]), 0.0, near=0.004))
    for _ in range(2):
        yield "grasped", towards(env, env.ee_pose()[:3], 1.0)
    yield from _stage("lifted", _go(env, np.array([*env.ee_pose()[:2], aim[0]]), 1.0))


def pick_and_place(env: PlanningEnv, aim: np.ndarray) -> Moves:
    """Take the first object, carry it to aim (2): x, y in m; put it down there, let go, retreat upwards."""
    yield from grasp(env, np.array([CLEAR]))
    yield from _stage("carried", _go(env, np.array([*aim, CLEAR]), 1.0))
    yield from _stage("placed", _go(env, np.array([*aim, LOW + 0.004]), 1.0))
    release = towards(env, env.ee_pose()[:3], 0.0)
    release[6] = -1.0  # from what was commanded, which is tighter than what the object lets the fingers do
    yield "placed", release
    yield from _stage("placed", _go(env, np.array([*aim, CLEAR]), 0.0))


def push_t(env: PlanningEnv, aim: np.ndarray) -> Moves:
    """PushT: push along aim (4): heading (rad), length (m), and the point x, y (m) to push through."""
    heading, length, *point = aim
    way = np.array([np.cos(heading), np.sin(heading)])
    for stage, goal in (("behind", point - BEHIND_T * way), ("pushed", point + length * way)):
        goal = np.clip(goal, *env.workspace)
        while (gap := np.abs(goal - env.ee_pose()).max()) > 0.01:
            yield stage, (goal - env.ee_pose()) * min(1.0, env.action_limit[0] / gap)


def play(env: PlanningEnv, expert: Expert, scene: int, aim: np.ndarray) -> Demonstration:
    """What `expert` does about `aim` in the scene of seed `scene`; replaying the actions repeats it to the bit."""
    env.reset(seed=scene)
    start, actions, stages = env.get_state(), [], {}
    for _, (stage, action) in zip(range(STEPS), expert(env, aim), strict=False):
        actions.append(action.astype(np.float32))  # what is stored, not more
        env.advance(actions[-1])
        stages[stage] = env.get_state()
    return Demonstration(start, tuple(stages.items()), np.stack(actions))


def _stage(name: str, actions: Iterator[np.ndarray]) -> Moves:
    for action in actions:
        yield name, action


def _go(env: PlanningEnv, goal: np.ndarray, closed: float, near: float = 0.01) -> Iterator[np.ndarray]:
    """Actions until the fingertips are within `near` m of `goal` (3)."""
    while np.linalg.norm(goal - env.ee_pose()[:3]) > near:
        yield towards(env, goal, closed)
