"""Closed loop: look, decide, act, look again, for a batch of episodes that share one simulator.

A row of the benchmark is a `Controller`; every row goes through the same loop and the same number of decisions.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from jepa.planning.planners.base import Bounds, Planner, shift
from jepa.worlds.base import Goal, State, WorldModel


@dataclass(frozen=True)
class View:
    """What can be known of B episodes now.

    frames: (B, 3, h, w) uint8, or None where nobody looks. pose: (B, 7) float32, the robot's measured state.
    sim: (B, n) float64, the simulator's whole state, for the oracle alone.
    """

    frames: Tensor | None
    pose: Tensor
    sim: Tensor

    def __getitem__(self, rows: slice) -> "View":
        return View(None if self.frames is None else self.frames[rows], self.pose[rows], self.sim[rows])


@dataclass(frozen=True)
class Decision:
    """actions (B, A) to carry out now, and the model steps that each row's decision took."""

    actions: Tensor
    model_steps: int = 0


class Controller(Protocol):
    def __call__(self, view: View, decision: int) -> Decision:
        """Decide for every episode; `decision` counts from 0."""
        ...


@dataclass(frozen=True)
class Episode:
    """distance (L+1) in metres before and after each of L decisions; actions (L, A); frames (L+1, h, w, 3)."""

    distance: list[float]
    actions: np.ndarray
    seconds: float  # per decision, of the controller alone: rendering and physics are the benchmark's own
    model_steps: int  # per decision
    frames: np.ndarray | None


def run_episodes(
    env: Any,
    starts: Sequence[np.ndarray],
    distances: Sequence[Callable[[Any], float]],
    controller: Controller,
    *,
    decisions: int,
    size: int | None,
    tick: Callable[[], None] = lambda: None,
) -> list[Episode]:
    """Run one episode from each start state, all of them in step.

    Args:
        env: has `set_state`, `get_state`, `advance(action)`, `ee_pose` and `render_at(size)`.
        starts: B simulator states.
        distances: for each episode, its distance in metres to the goal, read from `env` as it stands.
        size: pixels of a frame's side; None to render nothing.
        tick: called after every decision.
    """
    sims = [np.asarray(s, dtype=np.float64) for s in starts]
    curves = [[measured] for measured in _measure(env, sims, distances)]
    views = [look(env, sims, size)]
    actions, seconds, model_steps = [], 0.0, 0
    for t in range(decisions):
        began = time.monotonic()
        decided = controller(views[-1], t)
        seconds += time.monotonic() - began
        model_steps += decided.model_steps
        actions.append(decided.actions.double().cpu().numpy())
        sims = [_advance(env, sim, action) for sim, action in zip(sims, actions[-1], strict=True)]
        for curve, measured in zip(curves, _measure(env, sims, distances), strict=True):
            curve.append(measured)
        views.append(look(env, sims, size))
        tick()
    per_decision = seconds / decisions / len(sims)
    return [
        Episode(
            distance=curves[b],
            actions=np.stack([a[b] for a in actions]),
            seconds=per_decision,
            model_steps=model_steps // decisions,
            frames=None if size is None else np.stack([_pixels(v.frames[b]) for v in views]),  # type: ignore[index]
        )
        for b in range(len(sims))
    ]


def look(env: Any, sims: Sequence[np.ndarray], size: int | None) -> View:
    """The view of B simulator states."""
    frames, poses = [], []
    for sim in sims:
        env.set_state(sim)
        poses.append(torch.as_tensor(np.asarray(env.ee_pose()), dtype=torch.float32))
        if size is not None:
            frames.append(torch.from_numpy(np.array(env.render_at(size))).permute(2, 0, 1))
    return View(torch.stack(frames) if frames else None, torch.stack(poses), torch.from_numpy(np.stack(sims)))


class Replan:
    """Plans anew at every decision from the current view, starting from what is left of the last plan."""

    def __init__(
        self,
        world: WorldModel,
        sense: Callable[[View], Tensor],
        planner: Planner,
        energy: Callable[[Tensor], Goal],
        bounds: Bounds,
        goals: View,
        *,
        seed: int,
        batch: int = 8,
    ):
        """
        Args:
            sense: turns a view into the world's evidence, tokens (B, 1, N, D).
            energy: turns goal features (B, N, D) into a goal.
            goals: how the goals look; their pose is not read, for a goal is an image.
            batch: episodes planned together; the result does not depend on it.
        """
        self._world, self._sense, self._planner, self._energy = world, sense, planner, energy
        self._bounds, self._goals, self._seed, self._batch = bounds, goals, seed, batch
        self._states: dict[int, State] = {}
        self._energies: dict[int, Goal] = {}
        self._plans: dict[int, Tensor] = {}

    @torch.no_grad()
    def __call__(self, view: View, decision: int) -> Decision:
        starts = range(0, len(view.pose), self._batch)
        plans = [self._plan(first, view[first : first + self._batch], decision) for first in starts]
        return Decision(torch.cat([p.actions[:, 0] for p in plans]), plans[0].model_steps)

    def _plan(self, first: int, view: View, decision: int) -> Any:
        proprio = view.pose[:, None]
        if decision == 0:
            goal = self._world.observe(None, self._sense(self._goals[first : first + self._batch]), proprio)
            self._energies[first] = self._energy(self._world.features(goal))
            before, since, warm = None, None, None
        else:
            before, since = self._states[first], self._plans[first][:, :1]
            warm = shift(self._plans[first])
        self._states[first] = self._world.observe(before, self._sense(view), proprio, since)
        # The same stream for every batch: neither the batch size nor an episode's place in it changes its plan.
        seed = int(np.random.SeedSequence([self._seed, decision]).generate_state(1)[0])
        plan = self._planner.plan(
            self._world,
            self._states[first],
            self._energies[first],
            torch.Generator().manual_seed(seed),
            bounds=self._bounds,
            warm_start=warm,
        )
        self._plans[first] = plan.actions
        return plan


def _advance(env: Any, sim: np.ndarray, action: np.ndarray) -> np.ndarray:
    env.set_state(sim)
    env.advance(action)
    return np.array(env.get_state(), dtype=np.float64)


def _measure(env: Any, sims: Sequence[np.ndarray], distances: Sequence[Callable[[Any], float]]) -> list[float]:
    out = []
    for sim, distance in zip(sims, distances, strict=True):
        env.set_state(sim)
        out.append(float(distance(env)))
    return out


def _pixels(frame: Tensor) -> np.ndarray:
    return frame.permute(1, 2, 0).numpy()
