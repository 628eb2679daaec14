"""What planning and collecting ask of an environment, on top of gymnasium's `Env`; `make` opens one by name."""

import dataclasses
import importlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from jepa.config import ConfigError, plugin_names


class PlanningEnv(Protocol):
    """A simulator that can be forked, driven by changes of the robot's pose, and photographed.

    A is the width of an action, S of the robot's pose, P of the position in it. For an arm A = S = 7 and P = 3, as in
    V-JEPA 2-AC: [xyz (m), extrinsic xyz Euler angles (rad), gripper closedness 0..1]. An action is the change over one
    control step, clipped to ±`action_limit`.
    """

    name: str  # of its file
    fps: float  # control steps a second of simulated time
    action_limit: np.ndarray  # (A) float32, largest |action| per component
    action_units: tuple[str, ...]  # A of them
    state_units: tuple[str, ...]  # S of them
    workspace: np.ndarray  # (2, P) lowest and highest position of the robot, in m
    num_objects: int
    skills: tuple[str, ...]  # names of the labels of `behave`

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """A new scene, a function of `seed`. Returns ({"image": (size, size, 3) uint8, "state": (S) float32}, {})."""
        ...

    def advance(self, action: np.ndarray) -> np.ndarray:
        """One control step without an image. Returns the action (A) float32 that was commanded, after clipping."""
        ...

    def get_state(self) -> np.ndarray:
        """Everything that decides the future and the image, as one float64 vector."""
        ...

    def set_state(self, state: np.ndarray) -> None:
        """Return to a `get_state` vector of this environment; the future and the images repeat to the bit."""
        ...

    def ee_pose(self) -> np.ndarray:
        """True pose (S) float64 of the robot, its position (P) first."""
        ...

    def object_pos(self, i: int = 0) -> np.ndarray:
        """Centre (3) float64, in m, of object `i`."""
        ...

    def behave(self, rng: np.random.Generator, **mixture: Any) -> Iterator[tuple[int, np.ndarray]]:
        """Endless (label, action (A)) pairs for recording; `mixture`: shares of skills, levels of noise."""
        ...

    def render_at(self, size: int) -> np.ndarray:
        """The camera's view, (size, size, 3) uint8."""
        ...

    def close(self) -> None: ...


def make(name: str, *, size: int = 64, **options: Any) -> Any:
    """Open the environment of file `planning/envs/NAME.py` (see `PlanningEnv`) with `options` of its `Config`.

    Raises:
        ConfigError: there is no such environment or option.
    """
    if name not in (choices := plugin_names("jepa.planning.envs")):
        raise ConfigError(f"no environment '{name}'; there are: {', '.join(choices)}")
    module = importlib.import_module(f"jepa.planning.envs.{name}")
    known = [field.name for field in dataclasses.fields(module.Config)]
    if unknown := [key for key in options if key not in known]:
        raise ConfigError(f"environment {name} has no option '{unknown[0]}'; there are: {', '.join(known)}")
    return module.build(module.Config(size=size, **options))
