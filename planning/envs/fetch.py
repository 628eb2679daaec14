"""The Fetch arm of gymnasium-robotics with a cube on a table, for the tabletop's tasks (see `jepa.planning.arm_env`).

x points away from the robot, y to its left. The hand cannot turn: the rotation axes of an action are 0. A control step
lasts 0.24 s.
"""

from dataclasses import dataclass

import numpy as np

from jepa.planning.arm_env import ArmEnv, Scene
from jepa.planning.gym_env import gymnasium
from jepa.planning.offscreen import SimulatorError, import_mujoco

FINGER_TRAVEL = 0.05  # m each finger slides from closed to open


@dataclass(frozen=True)
class Config:
    size: int = 64  # pixels, height = width


def build(config: Config) -> "FetchEnv":
    """Open the environment that `config` describes."""
    return FetchEnv(config.size)


class FetchEnv(ArmEnv):
    """See `ArmEnv`.

    Raises:
        SimulatorError: a bad argument, or gymnasium-robotics, MuJoCo or offscreen OpenGL is missing.
    """

    name = "fetch"

    def __init__(self, size: int = 64, render_mode: str | None = "rgb_array") -> None:
        import_mujoco()
        try:
            from gymnasium_robotics.envs.fetch.pick_and_place import MujocoFetchPickAndPlaceEnv
        except ImportError as error:
            raise SimulatorError(
                f"gymnasium-robotics is not installed ({error}): pip install 'openjepa[fetch]'"
            ) from error
        game = MujocoFetchPickAndPlaceEnv()
        model = game.model
        model.site_rgba[:, 3] = 0.0  # no mark of a goal, and none of the body that leads the hand
        model.geom_rgba[model.geom_bodyid == model.body("robot0:mocap").id, 3] = 0.0
        scene = Scene(
            model,
            game.data,
            origin=(1.34, 0.75, 0.40),
            quarters=0,
            objects=("object0:joint",),
            half=0.025,
            substeps=12,
            distance=0.85,
        )
        super().__init__(scene, size, render_mode)
        self._fingers = [int(model.joint(f"robot0:{side}_gripper_finger_joint").qposadr[0]) for side in "lr"]
        self._offset = self._data.mocap_pos[0] - self._data.site("robot0:grip").xpos
        self._begin()

    def _hand(self) -> tuple[np.ndarray, float, float]:
        closed = 1.0 - self._data.qpos[self._fingers].mean() / FINGER_TRAVEL
        return self._data.site("robot0:grip").xpos, 0.0, closed

    def _lead(self, point: np.ndarray, yaw: float, closed: float) -> None:
        self._data.mocap_pos[0] = point + self._offset
        self._data.ctrl[:] = FINGER_TRAVEL * (1.0 - closed)


if gymnasium is not None:
    gymnasium.register("jepa/Fetch-v0", entry_point="jepa.planning.envs.fetch:FetchEnv")
