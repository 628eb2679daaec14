"""Scripted behaviour with noise for recording data: random exploration, reach, push, grasp and place.

A skill is a generator over the true state of the environment: it looks, yields one action, and looks again. `behave`
strings skills together; each of its actions comes with the label of the skill that chose it.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from jepa.config import ConfigError
from jepa.planning.envs.base import PlanningEnv

SKILLS = ("random", "reach", "push", "grasp", "place")  # label = position in this tuple
SHARES = {"random": 0.3, "reach": 0.2, "push": 0.3, "grasp": 0.2}  # how often each is begun; a place follows a grasp
NOISE = 0.01  # m, standard deviation added to every scripted move
LOW, CLEAR = 0.024, 0.11  # m: heights of the fingertips near the table and above objects
FREE = 0.1  # m: how far from the objects a reach ends
PATIENCE = 20  # skills that do nothing, before the robot explores instead
REACH = 0.135  # m: largest |x| and |y| that skills steer to
Skill = Callable[[PlanningEnv, np.random.Generator], Iterator[np.ndarray]]


def explore(env: PlanningEnv, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Smooth AR(1) motion mixed with uniform jumps on all position axes; sometimes a small turn about z."""
    turning = rng.random() < 0.2
    grip = float(rng.random() < 0.5)
    smooth = rng.normal(size=3)
    while True:
        smooth = 0.8 * smooth + 0.6 * rng.normal(size=3)
        jump = rng.random() < 0.3
        unit = rng.uniform(-1, 1, 3) if jump else np.clip(0.6 * smooth, -1, 1)
        action = np.zeros(7)
        action[:3] = unit * env.action_limit[:3]
        if turning:
            action[5] = rng.normal() * 0.5 * env.action_limit[5]
        if rng.random() < 0.15:
            grip = rng.random()
        action[6] = grip - env.ee_pose()[6]
        yield action


def reach(env: PlanningEnv, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Go to a random point in the air, clear of the objects, with a random gripper."""
    goal = np.array([*rng.uniform(-REACH, REACH, 2), rng.uniform(CLEAR, 0.16)])
    while min(np.linalg.norm(env.object_pos(i)[:2] - goal[:2]) for i in range(env.num_objects)) < FREE:
        goal[:2] = rng.uniform(-REACH, REACH, 2)
    yield from _go(env, rng, goal, float(rng.random() < 0.5), speed=rng.uniform(0.6, 1.0))
    yield _move(env, rng, goal, 1.0, 1.0)


def push(env: PlanningEnv, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Come down behind the object on a random side and push it 5-15 cm or so, with closed fingers."""
    i = int(rng.integers(env.num_objects))
    for _ in range(50):
        heading, length = rng.uniform(-np.pi, np.pi), rng.uniform(0.05, 0.15)
        way = np.array([np.cos(heading), np.sin(heading)])
        behind = env.object_pos(i)[:2] - 0.075 * way
        if max(np.abs(behind).max(), np.abs(env.object_pos(i)[:2] + (length - 0.03) * way).max()) < REACH:
            break
    else:
        return  # the object is in a corner: no side is free
    if env.ee_pose()[2] < CLEAR - 0.02:
        yield from _go(env, rng, np.array([*env.ee_pose()[:2], CLEAR]), 1.0)
    yield from _go(env, rng, np.array([*behind, CLEAR]), 1.0)
    yield from _go(env, rng, np.array([*behind, LOW]), 1.0)
    end, speed = env.object_pos(i)[:2] + length * way, rng.uniform(0.5, 1.0)
    for _ in range(8):  # aim through the object, wherever it slipped to
        if (ahead := (end - env.object_pos(i)[:2]) @ way) < 0.01:
            return
        goal = np.clip(env.object_pos(i)[:2] + (min(ahead, 0.06) - 0.04) * way, -REACH, REACH)
        yield _move(env, rng, np.array([*goal, LOW]), 1.0, speed, 0.5 * NOISE)


def grasp(env: PlanningEnv, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Open, go above the object, come down, close, lift."""
    i = int(rng.integers(env.num_objects))
    if np.abs(env.object_pos(i)[:2]).max() > REACH:
        return
    yield from _go(env, rng, np.array([*env.object_pos(i)[:2], CLEAR]), 0.0, noise=0.5 * NOISE)
    yield from _go(env, rng, np.array([*env.object_pos(i)[:2], LOW]), 0.0, noise=0.3 * NOISE, near=0.012)
    for _ in range(2):
        yield _move(env, rng, env.ee_pose()[:3], 1.0, 1.0, 0.0)
    lift = np.array([*env.ee_pose()[:2], rng.uniform(0.1, 0.16)])
    yield from _go(env, rng, lift, 1.0, speed=rng.uniform(0.6, 1.0))


def place(env: PlanningEnv, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Carry what the gripper holds to the far side of the table, put it down, let go, retreat upwards."""
    spot = rng.uniform([-0.11, 0.05], 0.11)
    yield from _go(env, rng, np.array([*spot, max(env.ee_pose()[2], 0.08)]), 1.0, speed=rng.uniform(0.6, 1.0))
    yield from _go(env, rng, np.array([*spot, LOW]), 1.0, noise=0.5 * NOISE)
    yield _move(env, rng, env.ee_pose()[:3], 0.0, 1.0, 0.0)
    yield from _go(env, rng, np.array([*env.ee_pose()[:2], 0.15]), 0.0)


def gripped(env: PlanningEnv, i: int) -> bool:
    """Is object `i` at the fingertips, and do the fingers close on something?"""
    pose = env.ee_pose()
    return bool(np.linalg.norm(env.object_pos(i) - pose[:3]) < 0.06 and pose[6] > 0.1)


def holding(env: PlanningEnv) -> bool:
    """Is an object off the table and between the fingers?"""
    return any(env.object_pos(i)[2] > 0.045 and gripped(env, i) for i in range(env.num_objects))


def behave(
    env: PlanningEnv, rng: np.random.Generator, shares: Mapping[str, float] = SHARES, noise: tuple[float, ...] = (0.0,)
) -> Iterator[tuple[int, np.ndarray]]:
    """Endless (label, action (7)) pairs: skills drawn at random, each followed for up to 8-14 steps.

    What was just grasped is mostly carried on and placed.

    Args:
        shares: how often each of random, reach, push and grasp is begun, relative to each other.
        noise: m; each time a skill is begun, one of these is drawn: the standard deviation of noise on top of its own.

    Raises:
        ConfigError: a share of another skill, or none that is positive, or noise below 0.
    """
    skills: tuple[Skill, ...] = (explore, reach, push, grasp, place)
    begun = mixed(shares, tuple(SHARES), noise)
    in_vain = 0  # skills begun in a row that found nothing to do: no mixture may be stuck for good
    while True:
        goes_on = holding(env) and rng.random() < 0.8
        label = SKILLS.index("place") if goes_on else int(rng.choice(len(begun), p=begun))
        limit = int(rng.integers(8, 13)) if label < 2 else 14  # what handles the object may finish
        label, in_vain = (0, 0) if in_vain == PATIENCE else (label, in_vain + 1)
        level = float(rng.choice(noise)) if len(noise) > 1 else noise[0]  # one level draws nothing
        for _, action in zip(range(limit), skills[label](env, rng), strict=False):
            if level:
                action[:3] += level * rng.normal(size=3)
            in_vain = 0
            yield label, action


def mixed(shares: Mapping[str, float], names: tuple[str, ...], noise: tuple[float, ...]) -> np.ndarray:
    """The probabilities of `names`. Raises ConfigError if shares or noise make no mixture of them."""
    if unknown := [name for name in shares if name not in names]:
        raise ConfigError(f"no behaviour '{unknown[0]}' to mix; there are: {', '.join(names)}")
    given = np.array([float(shares.get(name, 0.0)) for name in names])
    if not (np.isfinite(given).all() and (given >= 0).all() and given.sum() > 0):
        raise ConfigError(f"shares of behaviours must be 0 or more, one of them above; got {dict(shares)}")
    if not noise or not all(np.isfinite(level) and level >= 0 for level in noise):
        raise ConfigError(f"noise levels must be 0 m or more, at least one of them; got {list(noise)}")
    return given / given.sum()


def towards(env: PlanningEnv, goal: np.ndarray, closed: float, speed: float = 1.0) -> np.ndarray:
    """One action (7) towards `goal` (3, m), at `speed` times the limit at most, with the gripper towards `closed`."""
    pose = env.ee_pose()
    limit = speed * env.action_limit[:3]
    turn = np.clip(-pose[5], -0.2, 0.2) if abs(pose[5]) > 0.02 else 0.0
    return np.array([*np.clip(goal - pose[:3], -limit, limit), 0.0, 0.0, turn, closed - pose[6]])


def _move(
    env: PlanningEnv, rng: np.random.Generator, goal: np.ndarray, closed: float, speed: float, noise: float = NOISE
) -> np.ndarray:
    """`towards` with noise."""
    action = towards(env, goal, closed, speed)
    action[:3] += noise * rng.normal(size=3)
    return action


def _go(
    env: PlanningEnv,
    rng: np.random.Generator,
    goal: np.ndarray,
    closed: float,
    speed: float = 1.0,
    noise: float = NOISE,
    near: float = 0.02,
) -> Iterator[np.ndarray]:
    """Actions until the fingertips are within `near` m of `goal` (3), at most 8."""
    for _ in range(8):
        if np.linalg.norm(goal - env.ee_pose()[:3]) < near:
            return
        yield _move(env, rng, goal, closed, speed, noise)
