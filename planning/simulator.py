"""The true simulator as a world model: planning in it, on true distances, is the ceiling of a benchmark."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa.worlds.base import State, Step, WorldModel


class SimulatorWorld(WorldModel):
    """State {"sim": (B, n) float64, "coordinates": (B, k) float64}; features are the coordinates, (B, 1, k).

    Args:
        env: has `set_state`, `get_state` and `advance(action)`, which steps physics without rendering.
        coordinates: reads the k task coordinates, in metres, from `env` as it stands.
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
        pairs = zip(state["sim"].numpy(), action.double().numpy(), strict=True)
        return Step(self._state([self._read(sim, a) for sim, a in pairs]))

    def features(self, state: State) -> Tensor:
        return state["coordinates"][:, None]

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
