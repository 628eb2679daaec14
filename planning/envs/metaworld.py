"""Meta-World's Sawyer arm with its puck on a table, for the tabletop's tasks (see `jepa.planning.arm_env`).

The scene is the one that Meta-World's reach, push and pick-place share (Yu et al., arXiv 1910.10897); their goals and
rewards are not used. x points away from the robot, y to its left. The hand cannot turn: the rotation axes of an action
are 0. A control step lasts 0.25 s.
"""

from dataclasses import dataclass

import numpy as np

from jepa.planning.arm_env import ArmEnv, Scene
from jepa.planning.gym_env import gymnasium
from jepa.planning.offscreen import SimulatorError, import_mujoco

FINGER_TRAVEL = 0.03  # m each finger slides from open to closed
TIP, PAD = 0.045, 0.015  # m from the fingers' ends up to the hand, and to the point between them that is led
GRIP = (60_000.0, 4_000.0)  # N/m and N s/m: holds a width, and closes on the puck with about the 400 N of Meta-World


@dataclass(frozen=True)
class Config:
    size: int = 64  # pixels, height = width


def build(config: Config) -> "MetaWorldEnv":
    """Open the environment that `config` describes."""
    return MetaWorldEnv(config.size)


class MetaWorldEnv(ArmEnv):
    """See `ArmEnv`.

    Raises:
        SimulatorError: a bad argument, or Meta-World, MuJoCo or offscreen OpenGL is missing.
    """

    name = "metaworld"

    def __init__(self, size: int = 64, render_mode: str | None = "rgb_array") -> None:
        mujoco = import_mujoco()
        try:
            from metaworld.envs.sawyer_push_v3 import SawyerPushEnvV3
        except ImportError as error:
            raise SimulatorError(f"metaworld is not installed ({error}): pip install 'openjepa[metaworld]'") from error
        game = SawyerPushEnvV3()
        model = game.model
        model.site_rgba[:, 3] = 0.0  # no mark of a goal, nor of the hand
        model.geom_matid[model.geom("objGeom").id] = -1  # plain red: its wood is as dark as the table's
        model.mat_reflectance[:] = 0.0  # each mirror would draw the scene once more
        model.eq_solref[:, 0] = 0.01  # s, half of what it is, so that the hand ends where it is led
        model.actuator_gainprm[:, 0] = GRIP[0]
        model.actuator_biasprm[:, 1:3] = -np.array(GRIP)
        scene = Scene(
            model,
            game.data,
            origin=(0.0, 0.65, 0.0),
            quarters=1,
            objects=("objjoint",),
            half=0.02,
            substeps=10,
            distance=0.65,
        )
        super().__init__(scene, size, render_mode)
        self._fingers = [int(model.joint(f"{side}_close").qposadr[0]) for side in "rl"]
        self._data.mocap_quat[0] = 1.0, 0.0, 1.0, 0.0  # the hand looks down
        self._data.mocap_pos[0] = np.add(scene.origin, [0.0, 0.0, 0.2])
        mujoco.mj_step(model, self._data, nstep=1000)
        self._place_geoms()
        self._begin()

    def _hand(self) -> tuple[np.ndarray, float, float]:
        right, left = self._data.qpos[self._fingers]
        tips = [self._data.site(f"{side}EndEffector").xpos for side in ("right", "left")]
        return np.add(np.mean(tips, axis=0), [0.0, 0.0, PAD]), 0.0, (right - left) / (2 * FINGER_TRAVEL)

    def _lead(self, point: np.ndarray, yaw: float, closed: float) -> None:
        self._data.mocap_pos[0] = np.add(point, [0.0, 0.0, TIP - PAD])
        self._data.ctrl[:] = FINGER_TRAVEL * closed * np.array([1.0, -1.0])


if gymnasium is not None:
    gymnasium.register("jepa/MetaWorld-v0", entry_point="jepa.planning.envs.metaworld:MetaWorldEnv")
