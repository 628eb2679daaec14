"""gymnasium's side of every environment: spaces, step and render, on top of the contract of `envs.base`."""

from typing import Any

import numpy as np

from jepa.planning.offscreen import SimulatorError

try:  # an optional extra; without it the environments still import, and opening one says what to do
    import gymnasium
    from gymnasium import Env
except ImportError:
    gymnasium, Env = None, object  # type: ignore[assignment,misc]


class GymEnv(Env):
    """Observation {"image": (size, size, 3) uint8, "state": (S) float32}; action (A) float32; reward always 0.

    An environment of this kind has `advance`, `ee_pose` and `render_at`.

    Raises:
        SimulatorError: pictures of fewer than 8 pixels, or gymnasium is missing.
    """

    name: str

    def __init__(
        self, size: int, render_mode: str | None, action_limit: np.ndarray, states: tuple[np.ndarray, np.ndarray]
    ) -> None:
        """`states`: lowest and highest (S)."""
        if gymnasium is None:
            raise SimulatorError("gymnasium is not installed: pip install 'openjepa[sim]'")
        if size < 8:
            raise SimulatorError(f"{self.name}: size ≥ 8, got {size}")
        self.size, self.render_mode, self.action_limit = size, render_mode, action_limit.astype(np.float32)
        self.action_space = gymnasium.spaces.Box(-self.action_limit, self.action_limit, dtype=np.float32)
        low, high = (edge.astype(np.float32) for edge in states)
        self.observation_space = gymnasium.spaces.Dict(
            image=gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8),
            state=gymnasium.spaces.Box(low, high, dtype=np.float32),
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """A new scene, drawn from `seed`, and the look at it. There are no options."""
        super().reset(seed=seed)
        if options:
            raise SimulatorError(f"{self.name}: reset takes no options, got {sorted(options)}")
        self._new_scene(self.np_random)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """`advance`, then look: (observation, 0.0, False, False, {"action": what was commanded after clipping})."""
        commanded = self.advance(action)
        return self._observe(), 0.0, False, False, {"action": commanded}

    def render(self) -> np.ndarray | None:
        """The view at the environment's own size, when `render_mode` is "rgb_array"."""
        return self.render_at(self.size) if self.render_mode == "rgb_array" else None

    def advance(self, action: np.ndarray) -> np.ndarray:
        """See `PlanningEnv`."""
        raise NotImplementedError

    def ee_pose(self) -> np.ndarray:
        """See `PlanningEnv`."""
        raise NotImplementedError

    def render_at(self, size: int) -> np.ndarray:
        """See `PlanningEnv`."""
        raise NotImplementedError

    def _new_scene(self, rng: np.random.Generator) -> None:
        """Draw a scene."""
        raise NotImplementedError

    def _checked(self, action: np.ndarray) -> np.ndarray:
        """The action as float64. Raises SimulatorError where it is not as many finite numbers as there are."""
        action = np.asarray(action, np.float64)
        if action.shape != self.action_limit.shape or not np.isfinite(action).all():
            raise SimulatorError(
                f"{self.name}: an action is {len(self.action_limit)} finite numbers, got {action.tolist()}"
            )
        return action

    def _observe(self) -> dict[str, np.ndarray]:
        return {"image": self.render_at(self.size), "state": self.ee_pose().astype(np.float32)}
