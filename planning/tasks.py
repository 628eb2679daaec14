"""The tasks: what each is measured by, and when it is done, in words and metres."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa.planning import experts
from jepa.planning.skills import gripped, holding

LIFT, STAY, REST = 0.04, 0.03, 0.01  # m: off the table; not moved; put down


@dataclass(frozen=True)
class Task:
    """Success is a final distance of at most the goal file's tolerance (5 cm), and `holds`.

    `success` says this in words. `measure` reads the coordinates, in metres, that distances are taken of.
    `least`, `most`: m, how far the goal is from the start. `holds(env, rest)`: what else is asked at the end;
    `rest` (O, 3) are the objects' centres at the start.
    """

    success: str
    expert: experts.Expert
    measure: Callable[[Any], np.ndarray]
    least: float
    most: float
    decisions: int  # the limit, the same for every row
    frozen: tuple[int, ...]  # action axes held at 0: no rotations, as in V-JEPA 2-AC
    holds: Callable[[Any, np.ndarray], bool] = lambda env, rest: True


def centres(env: Any) -> np.ndarray:
    """The objects' centres (O, 3), in m."""
    return np.stack([env.object_pos(i) for i in range(env.num_objects)])


def _lifted(env: Any, rest: np.ndarray) -> bool:
    return bool(env.object_pos()[2] >= rest[0, 2] + LIFT and holding(env))


def _put_down(env: Any, rest: np.ndarray) -> bool:
    return bool(env.object_pos()[2] <= rest[0, 2] + REST and not gripped(env, 0))


def _other_stays(env: Any, rest: np.ndarray) -> bool:
    return bool(np.linalg.norm(env.object_pos(1) - rest[1]) <= STAY)


def _hand(env: Any) -> np.ndarray:
    return np.asarray(env.ee_pose())[:3]


def _on_table(env: Any) -> np.ndarray:
    return np.asarray(env.object_pos())[:2]


def _in_space(env: Any) -> np.ndarray:
    return np.asarray(env.object_pos())


def _corners(env: Any) -> np.ndarray:
    corners = np.asarray(env.corners())
    return corners.ravel() / np.sqrt(len(corners))


TASKS = {
    "reach": Task(
        "the fingertips end within 5 cm of where the goal image shows them",
        experts.reach, _hand, 0.12, 0.25, 8, (3, 4, 5, 6),
    ),
    "push": Task(
        "the object ends within 5 cm of where the goal image shows it",
        experts.push, _on_table, 0.10, 0.20, 12, (3, 4, 5),
    ),
    "grasp": Task(
        "the object ends within 5 cm of where the goal image shows it, between the fingers, 4 cm or more off the table",
        experts.grasp, _in_space, 0.08, 0.14, 14, (3, 4, 5), _lifted,
    ),
    "pick_and_place": Task(
        "the object ends within 5 cm of where the goal image shows it, on the table (to 1 cm) and let go; "
        "pushing it there counts",
        experts.pick_and_place, _in_space, 0.10, 0.25, 20, (3, 4, 5), _put_down,
    ),
    "push_beside": Task(
        "the first object ends within 5 cm of where the goal image shows it; the other has moved 3 cm at most",
        experts.push, _on_table, 0.10, 0.20, 12, (3, 4, 5), _other_stays,
    ),
    "push_t": Task(
        "the T's corners end within 5 cm (root mean square) of where the goal image shows them",
        experts.push_t, _corners, 0.10, 0.25, 12, (),
    ),
}  # fmt: skip
