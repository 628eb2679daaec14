"""The true simulator as a world model: with true distances the ceiling of a benchmark, or with an encoder's energy."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa.models.encoder import Encoder
from jepa.planning.agent import eyes
from jepa.planning.goals import LastStepDistance, LastStepPush, SwitchRule
from jepa.planning.manifest import position, task_of
from jepa.planning.mpc import look
from jepa.worlds.base import Goal, State, Step, WorldModel

GRIPPER = 0.05  # m that the whole way of the gripper counts


@dataclass(frozen=True)
class Oracle:
    """What the oracle of a task reads of the simulator, coordinates (1, k) in metres, and how it judges them.

    switch: it aims at the goal's sub-goals in turn, by this rule; without, at the goal alone.
    """

    coordinates: Callable[[Any], np.ndarray]
    energy: Callable[[Tensor], Goal] = LastStepDistance
    switch: SwitchRule | None = None


def oracle(task: str) -> Oracle:
    """The oracle of a task.

    `reach`: the hand's distance to its goal. `push`: see `LastStepPush`. Others: the Euclidean distance of the whole
    scene to each of the expert's sub-goals in turn, for theirs is no distance that leads to the goal by itself.
    """
    if task == "reach":
        return Oracle(lambda env: position(env, "reach")[None])
    if task == "push":
        return Oracle(lambda env: np.concatenate([position(env, "push"), position(env, "reach")])[None], LastStepPush)
    return Oracle(partial(_scene, task), switch=SwitchRule(threshold=0.015, patience=(5,)))


def _scene(task: str, env: Any) -> np.ndarray:
    """What the task is measured by, the robot's place, its gripper if it has one, and the other objects."""
    pose = np.asarray(env.ee_pose())
    place = pose[: env.workspace.shape[1]]
    gripper = GRIPPER * pose[6:] if len(pose) == 7 else pose[:0]
    others = [env.object_pos(i) for i in range(1, env.num_objects)]
    return np.concatenate([task_of(task).measure(env), place, gripper, *others])[None]


def pictured(encoder: Encoder, world: WorldModel) -> Callable[[Any], np.ndarray]:
    """Reads how the environment looks: the encoder's tokens (N, D), in the scale of `world.features`."""
    sense, size = eyes(encoder), encoder.config.size

    @torch.no_grad()
    def tokens(env: Any) -> np.ndarray:
        view = look(env, [env.get_state()], size)
        return world.features(world.observe(None, sense(view), view.pose[:, None]))[0].numpy()

    return tokens


class SimulatorWorld(WorldModel):
    """State {"sim": (B, n) float64, "coordinates": (B, N, D) float64}; features are the coordinates.

    Args:
        env: has `set_state`, `get_state` and `advance(action)`, which steps physics without rendering.
        coordinates: reads them, (N, D), from `env` as it stands.
    """

    def __init__(self, env: Any, coordinates: Callable[[Any], np.ndarray]):
        super().__init__()
        self._env, self._coordinates = env, coordinates

    def observe(
        self,
        state: State | None,
        tokens: Tensor,
        proprio: Tensor | None = None,
        actions: Tensor | None = None,
    ) -> State:
        """The evidence is the simulator's own state: tokens (B, T, 1, n); the last one says all."""
        return self._state([self._read(sim.numpy()) for sim in tokens[:, -1, 0]])

    def step(self, state: State, action: Tensor, generator: torch.Generator | None = None) -> Step:
        """Exact and deterministic; rows go through the one environment in turn."""
        pairs = zip(state["sim"].numpy(), action.detach().double().numpy(), strict=True)
        return Step(self._state([self._read(sim, a) for sim, a in pairs]))

    def features(self, state: State) -> Tensor:
        return state["coordinates"]

    def _read(self, sim: np.ndarray, action: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        self._env.set_state(sim)
        if action is not None:
            self._env.advance(action)
        after = np.array(self._env.get_state(), dtype=np.float64)
        return torch.from_numpy(after), torch.from_numpy(np.array(self._coordinates(self._env), dtype=np.float64))

    @staticmethod
    def _state(rows: list[tuple[Tensor, Tensor]]) -> State:
        sims, coordinates = zip(*rows, strict=True)
        return {"sim": torch.stack(sims), "coordinates": torch.stack(coordinates)}
