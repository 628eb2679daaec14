"""What recorded episodes cover: the workspace, the actions, and what happens to the first object."""

import json
from pathlib import Path
from typing import Any

import numpy as np

CELLS = 10  # along each axis of the workspace
BINS = 11  # of actions, over ± the limit; the middle one holds 0
MOVED, LIFTED, NEAR, CLOSED = 0.001, 0.04, 0.06, 0.1  # m in one step; m; m; closedness


def coverage(
    files: list[Path], skills: tuple[str, ...], action_limit: np.ndarray, workspace: np.ndarray
) -> dict[str, Any]:
    """Figures over the NPZ files of episodes.

    Args:
        action_limit: (A), the largest |action|. workspace: (2, P), lowest and highest position of the robot, in m.

    Returns:
        label_frames: frames by skill.
        object_travel_m, object_shift_m: means over episodes of the object's path, and of start to end.
        lifted: share of episodes in which the object left the table.
        contact: share of steps in which it moved by over 1 mm.
        grasp: share of frames in which it is off the table between the fingers; 0 without a gripper.
        robot_cells, object_cells: shares visited of the workspace's 10 × 10 (× 10) cells.
        object_map: (10, 10) frames by cell of the object, first axis x.
        actions: (A, 11) counts over ± the limit.
        idle: share of actions that are below 5 % of the limit on every axis.
    """
    positions_of = len(workspace[0])
    counts = np.zeros(len(skills), int)
    travel, shift, lifted, contact, grasp, idle = [], [], [], [], [], []
    robot, item = np.zeros((CELLS,) * positions_of, int), np.zeros((CELLS, CELLS), int)
    histogram = np.zeros((len(action_limit), BINS), int)
    for file in files:
        with np.load(file, allow_pickle=False) as arrays:
            actions, states, skill, centres = (arrays[k] for k in ("actions", "states", "skill", "object_pos"))
        counts += np.bincount(skill, minlength=len(skills))
        steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
        travel.append(steps.sum())
        shift.append(np.linalg.norm(centres[-1] - centres[0]))
        lifted.append(centres[:, 2].max() > centres[0, 2] + LIFTED)
        contact.extend(steps > MOVED)
        if states.shape[1] == 7:
            near = np.linalg.norm(states[:, :3] - centres, axis=1) < NEAR
            grasp.extend(near & (states[:, 6] > CLOSED) & (centres[:, 2] > centres[0, 2] + LIFTED / 2))
        np.add.at(robot, _cells(states[:, :positions_of], workspace), 1)
        np.add.at(item, _cells(centres[:, :2], workspace[:, :2]), 1)
        unit = actions / np.where(action_limit > 0, action_limit, 1)
        bins = np.clip(((unit + 1) / 2 * BINS).astype(int), 0, BINS - 1)
        for axis, row in enumerate(bins.T):
            histogram[axis] += np.bincount(row, minlength=BINS)
        idle.extend(np.abs(unit).max(1) < 0.05)
    return {
        "label_frames": dict(zip(skills, counts.tolist(), strict=True)),
        "object_travel_m": _mean(travel),
        "object_shift_m": _mean(shift),
        "lifted": _mean(lifted),
        "contact": _mean(contact),
        "grasp": _mean(grasp) if grasp else 0.0,
        "robot_cells": _mean(robot > 0),
        "object_cells": _mean(item > 0),
        "object_map": item.tolist(),
        "actions": histogram.tolist(),
        "idle": _mean(idle),
    }


def describe(figures: dict[str, Any]) -> str:
    """`coverage` in one line for the terminal."""
    labels = ", ".join(f"{name} {count}" for name, count in figures["label_frames"].items())
    return (
        f"{labels}; object travel {figures['object_travel_m']:.2f} m an episode, lifted in {figures['lifted']:.0%}; "
        f"it moves in {figures['contact']:.0%} of steps, is held in {figures['grasp']:.0%} of frames; "
        f"visited: robot {figures['robot_cells']:.0%} of cells, object {figures['object_cells']:.0%}; "
        f"{figures['idle']:.0%} of actions are idle"
    )


def write(path: Path, figures: dict[str, Any]) -> None:
    """Write the figures as JSON, one key a line."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in figures.items())
    path.write_text(f"{{\n{lines}\n}}\n")


def _cells(points: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, ...]:
    """The cell of each point (n, P) in a box (2, P); outside counts as the outermost cell."""
    unit = (points - box[0]) / (box[1] - box[0])
    return tuple(np.clip((unit * CELLS).astype(int), 0, CELLS - 1).T)


def _mean(values: Any) -> float:
    return round(float(np.mean(values)), 3)
