"""Closed loop: look, decide, act, look again, for a batch of episodes that share one simulator.

A row of the benchmark is a `Controller`; every row goes through the same loop and the same number of decisions.
Planning itself, encoder included, is `jepa.planning.agent.Agent`, as for a real robot.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from jepa.planning.agent import Agent, Decision, View
from jepa.planning.goals import SwitchRule
from jepa.planning.planners.base import Bounds, Planner
from jepa.planning.safety import Safety
from jepa.worlds.base import Goal, WorldModel


class Controller(Protocol):
    def __call__(self, view: View, decision: int) -> Decision:
        """Decide for every episode; `decision` counts from 0."""
        ...


@dataclass(frozen=True)
class Episode:
    """distance (L+1) in metres before and after each of L decisions; actions (L, A); frames (L+1, h, w, 3).

    stopped: why it held still from some decision on, "" if it did not. final: the simulator's state at the end.
    """

    distance: list[float]
    actions: np.ndarray
    seconds: float  # per decision, of the controller alone, not of the rendering and physics between decisions
    model_steps: int  # per decision
    frames: np.ndarray | None
    stopped: str = ""
    final: np.ndarray | None = None


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
    stopped = [""] * len(sims)
    for t in range(decisions):
        began = time.monotonic()
        decided = controller(views[-1], t)
        seconds += time.monotonic() - began
        model_steps += decided.model_steps
        stopped = list(decided.stops) or stopped
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
            stopped=stopped[b],
            final=sims[b],
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
    """An `Agent` for each `batch` of episodes."""

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
        before: Sequence[View] = (),
        switch: SwitchRule = SwitchRule(),
        batch: int = 8,
        execute: int = 1,
        seconds: float | None = None,
        context: int = 0,
        safety: Safety = Safety(stale=0),
        precision: str = "fp32",
    ):
        """
        Args:
            goals: how the goals look; their pose is not read, for a goal is an image.
            before: how the sub-goals before them look, in order.
            batch: episodes planned together; the result does not depend on it.
            seconds: for a decision of one batch.

        The others are `Agent`'s.
        """
        self._goals, self._before, self._batch = goals, before, batch
        own: dict[str, Any] = {"energy": energy, "switch": switch, "seed": seed}
        own |= {"execute": execute, "seconds": seconds, "context": context}
        own |= {"safety": safety, "precision": precision}
        self._agents = [Agent(world, sense, planner, bounds, **own) for _ in range(0, len(goals.pose), batch)]

    def __call__(self, view: View, decision: int) -> Decision:
        decided = []
        for i, agent in enumerate(self._agents):
            rows = slice(i * self._batch, (i + 1) * self._batch)
            if decision == 0:
                agent.aim(self._goals[rows], [goal[rows] for goal in self._before])
            decided.append(agent.decide(view[rows]))
        stops = tuple(reason for d in decided for reason in d.stops)
        steps = round(sum(d.model_steps for d in decided) / len(decided))  # a deadline may cut some short
        return Decision(torch.cat([d.actions for d in decided]), steps, stops)


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
