"""What planning and collecting ask of an environment, on top of gymnasium's `Env`; `make` opens one by name."""

import importlib
from typing import Any, Protocol

import numpy as np

from jepa.config import ConfigError, plugin_names


class PlanningEnv(Protocol):
    """A simulator that can be forked, driven by 7-D end-effector actions and photographed.

    Actions and poses follow V-JEPA 2-AC: [xyz (m), extrinsic xyz Euler angles (rad), gripper closedness 0..1];
    an action is the change over one control step, clipped to ±`action_limit`.
    """

    fps: float  # control steps a second of simulated time
    action_limit: np.ndarray  # (7) float32, largest |action| per component
    num_objects: int

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]: ...

    def advance(self, action: np.ndarray) -> np.ndarray:
        """One control step without an image. Returns the action (7) float32 that was commanded, after clipping."""
        ...

    def get_state(self) -> np.ndarray:
        """Everything that decides the future and the image, as one float64 vector."""
        ...

    def set_state(self, state: np.ndarray) -> None:
        """Return to a `get_state` vector of this environment; the future and the images repeat to the bit."""
        ...

    def ee_pose(self) -> np.ndarray:
        """True end-effector pose (7) float64."""
        ...

    def object_pos(self, i: int = 0) -> np.ndarray:
        """Centre (3) float64, in m, of object `i`."""
        ...

    def place_ee(self, xyz: np.ndarray, closedness: float = 0.0) -> None:
        """Put the upright end-effector at `xyz` (m) and let the scene settle."""
        ...

    def place_object(self, i: int, xy: np.ndarray) -> None:
        """Put object `i` upright on the table at `xy` (m) and let the scene settle."""
        ...

    def render_at(self, size: int) -> np.ndarray:
        """The camera's view, (size, size, 3) uint8."""
        ...

    def close(self) -> None: ...


def make(name: str, *, size: int = 64, variation: float = 1.0, num_objects: int = 1) -> Any:
    """Open the environment of file `planning/envs/NAME.py` (see `PlanningEnv`).

    Raises:
        ConfigError: there is no such environment.
    """
    if name not in (choices := plugin_names("jepa.planning.envs")):
        raise ConfigError(f"no environment '{name}'; there are: {', '.join(choices)}")
    module = importlib.import_module(f"jepa.planning.envs.{name}")
    return module.build(module.Config(size=size, variation=variation, num_objects=num_objects))
