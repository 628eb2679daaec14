"""When a robot must stop: an energy that is no number, a hand outside its workspace, a camera that shows the past."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jepa.config import ConfigError
from jepa.planning.planners.base import Plan
from jepa.pose import delta

SLACK = 0.005  # m outside the workspace that measurement noise may explain
MOVED = torch.tensor([0.002] * 3 + [0.02] * 3 + [0.05])  # m, rad, closedness: less than this is standing still
MOVED_ELSE = 0.002  # the same of states that are not 7-D poses, in whatever unit


class SafeStop(RuntimeError):
    """The robot must hold still. The message says why, in one sentence; `action` holds it, in its own numbers."""

    def __init__(self, reason: str, action: np.ndarray):
        super().__init__(reason)
        self.action = action


@dataclass(frozen=True)
class Safety:
    """workspace: lowest and highest x, y, z of the hand in m, or empty for no limit; for 7-D poses alone.

    stale: after how many decisions with the very same picture, while the robot moved, the camera counts as dead; 0
    does not look.
    """

    workspace: tuple[tuple[float, float], ...] = ()
    stale: int = 3


class Watch:
    """Watches the B rows of one episode; `look` and `judge` return for each row why it is stopped, or ""."""

    def __init__(self, safety: Safety) -> None:
        self._safety = safety
        self._edges = torch.tensor(safety.workspace) if safety.workspace else None  # (3, 2)
        self._stops: list[str] = []
        self._frames: Tensor | None = None
        self._seen_at = torch.zeros(0)  # (B, S) the state when the picture last changed
        self._same = torch.zeros(0)  # (B) decisions that moved and saw no change

    def look(self, frames: Tensor | None, pose: Tensor) -> tuple[str, ...]:
        """Judge what is measured: frames (B, 3, h, w) or None, pose (B, 7), or states (B, S) of another kind.

        Raises:
            ConfigError: a workspace, and states that are not 7-D poses.
        """
        if self._edges is not None and pose.shape[1] != len(MOVED):
            raise ConfigError(
                f"a workspace is for the hand of a 7-D pose; these states have {pose.shape[1]} numbers: leave it empty "
                "and let the robot's controller keep it inside"
            )
        self._stops = self._stops or [""] * len(pose)
        for row in (~pose.isfinite().all(1)).nonzero()[:, 0].tolist():
            self._stop(row, "the measured pose is not finite")
        if self._edges is not None:
            place = pose[:, :3]
            for row, axis in (
                ((place < self._edges[:, 0] - SLACK) | (place > self._edges[:, 1] + SLACK)).nonzero().tolist()
            ):
                low, high = self._safety.workspace[axis]
                where = f"{'xyz'[axis]} = {place[row, axis]:.3f} m"
                self._stop(row, f"the hand is at {where}, outside its workspace of {low:g} to {high:g} m")
        if self._safety.stale and frames is not None:
            self._watch_camera(frames, pose)
        return tuple(self._stops)

    def judge(self, plan: Plan) -> tuple[str, ...]:
        """Judge what was planned."""
        for row, cost in enumerate(plan.cost.tolist()):
            if not np.isfinite(cost):
                self._stop(row, f"the energy of the best plan is {cost}: picture, state or world model is broken")
            elif not plan.actions[row].isfinite().all():
                self._stop(row, "the planned action is not finite")
        return tuple(self._stops)

    def inside(self, pose: Tensor, actions: Tensor) -> Tensor:
        """Actions (B, 7) cut so that they do not lead out of the workspace from pose (B, 7), if there is one."""
        if self._edges is None:
            return actions
        goal = torch.minimum(torch.maximum(pose[:, :3] + actions[:, :3], self._edges[:, 0]), self._edges[:, 1])
        return torch.cat([goal - pose[:, :3], actions[:, 3:]], 1)

    def _watch_camera(self, frames: Tensor, pose: Tensor) -> None:
        if self._frames is None:
            self._seen_at, self._same = pose, torch.zeros(len(pose))
        else:
            fresh = (frames != self._frames).flatten(1).any(1)
            moved = _moved(self._seen_at, pose)
            self._seen_at = torch.where(fresh[:, None], pose, self._seen_at)
            self._same = torch.where(fresh, 0.0, self._same + moved)
            for row in (self._same >= self._safety.stale).nonzero()[:, 0].tolist():
                times = self._safety.stale
                self._stop(row, f"the camera gave the same picture {times} times while the robot moved: is it alive?")
        self._frames = frames

    def _stop(self, row: int, reason: str) -> None:
        self._stops[row] = self._stops[row] or reason  # the first reason is the cause


def _moved(before: Tensor, now: Tensor) -> Tensor:
    """Whether each row's state (B, S) has changed; 7 numbers are a pose, whose angles π and -π are the same place."""
    if now.shape[1] == len(MOVED):
        return (delta(before, now).abs() > MOVED).any(1)
    return ((now - before).abs() > MOVED_ELSE).any(1)
