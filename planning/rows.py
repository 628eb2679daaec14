"""The rows of the benchmark: for each, the controller that decides and the frames it needs to see."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepa.config import ConfigError, build
from jepa.models.encoder import encode_frames
from jepa.planning.goals import LastStepDistance, LastStepL1, LastStepPush
from jepa.planning.manifest import position
from jepa.planning.mpc import Controller, Decision, Replan, View, look
from jepa.planning.planners.base import Bounds
from jepa.planning.simulator import SimulatorWorld
from jepa.runs import load_world

LABELS = {
    "ours": "ours",
    "control": "random-init encoder",
    "random": "random actions",
    "nothing": "do nothing",
    "oracle": "oracle (simulator)",
}

# What the oracle reads of the true simulator, and its cost in metres, for each task.
ORACLE = {
    "reach": (lambda env: position(env, "reach"), LastStepDistance),
    "push": (lambda env: np.concatenate([position(env, "push"), position(env, "reach")]), LastStepPush),
}


def _run_of(row: str, config: Any) -> str:
    """The post-training run of a row; its weights must be what the row's label says."""
    run, wanted = (config.world, "pretrained") if row == "ours" else (config.control, "random")
    path = Path(run) / "config.json"
    weights = json.loads(path.read_text()).get("weights") if path.is_file() else wanted
    if weights != wanted:
        raise ConfigError(f"row '{LABELS[row]}' wants a run with weights={wanted}; {run} has {weights}")
    return run


def action_bounds(env: Any, fraction: float, frozen: Sequence[int]) -> Bounds:
    """`fraction` of the environment's own limits, with some axes held at 0."""
    limit = fraction * torch.as_tensor(env.action_limit, dtype=torch.float32)
    return Bounds(-limit, limit, tuple(frozen))


def controller(
    row: str,
    task: str,
    config: Any,
    env: Any,
    bounds: Bounds,
    goals: Sequence[np.ndarray],
) -> tuple[Controller, int | None]:
    """The controller of a row for episodes with these goal states, and the frame size it looks at.

    Raises:
        CheckpointError: the row's world cannot be loaded.
    """
    if row == "random":
        return random_actions(bounds, config.seed), None
    if row == "nothing":
        return do_nothing(bounds), None
    if row == "oracle":
        coordinates, energy = ORACLE[task]
        world, planner = SimulatorWorld(env, coordinates), build(config.oracle)

        def sense(view: View) -> torch.Tensor:
            return view.sim[:, None, None]

        size = None
    else:
        encoder, world = load_world(_run_of(row, config))
        planner, energy = build(config.planner), LastStepL1

        def sense(view: View) -> torch.Tensor:
            return encode_frames(encoder, view.frames[:, None])  # type: ignore[index]

        size = encoder.config.size
    view = look(env, goals, size)
    replan = Replan(world, sense, planner, energy, bounds, view, seed=config.seed, batch=config.batch)
    return replan, size


def random_actions(bounds: Bounds, seed: int) -> Controller:
    """The floor: uniform in the bounds, a stream of its own for each episode."""

    def act(view: View, decision: int) -> Decision:
        draws = [np.random.default_rng([seed, decision, row]).random(len(bounds.low)) for row in range(len(view.pose))]
        unit = torch.from_numpy(np.stack(draws)).to(bounds.low.dtype)
        return Decision(bounds.clip(bounds.low + unit * (bounds.high - bounds.low)))

    return act


def do_nothing(bounds: Bounds) -> Controller:
    """The other floor: zero actions."""

    def act(view: View, decision: int) -> Decision:
        return Decision(torch.zeros(len(view.pose), len(bounds.low)))

    return act
