"""OGBench-Cube's UR5e arm with one or two cubes, for the tabletop's tasks (see `jepa.planning.arm_env`).

The scene is that of Park et al., arXiv 2410.20092; its goals and rewards are not used. x points away from the robot, y
to its left. The hand turns about z alone. A control step lasts 0.24 s.
"""

from dataclasses import dataclass

import numpy as np

from jepa.planning.arm_env import ArmEnv, Scene
from jepa.planning.gym_env import gymnasium
from jepa.planning.offscreen import SimulatorError, import_mujoco

CUBES = {1: "single", 2: "double"}
ARM = 6  # joints
HOME = np.pi / 2 * np.array([-1.0, -1.0, 1.0, -1.0, -1.0, 0.0])  # rad, from where the first pose is sought
ACROSS = np.pi / 2  # rad, OGBench's yaw of a hand whose fingers open along x, where the camera sees it
VIOLET = 0.61, 0.28, 0.82, 1.0  # of the gripper, as in OGBench's own pictures: black could not be seen before the floor
STIFFER = 3.0  # than OGBench's joints, so that the hand ends where it is led within a control step
CLOSED, CTRL = 0.8, 255.0  # rad of the joint that drives the fingers, and its control, when they are closed


@dataclass(frozen=True)
class Config:
    size: int = 64  # pixels, height = width
    num_objects: int = 1  # or 2


def build(config: Config) -> "OGBenchEnv":
    """Open the environment that `config` describes."""
    return OGBenchEnv(config.size, config.num_objects)


class OGBenchEnv(ArmEnv):
    """See `ArmEnv`.

    Raises:
        SimulatorError: a bad argument, or OGBench, MuJoCo or offscreen OpenGL is missing.
    """

    name = "ogbench"

    def __init__(self, size: int = 64, num_objects: int = 1, render_mode: str | None = "rgb_array") -> None:
        if num_objects not in CUBES:
            raise SimulatorError(f"ogbench: num_objects 1 or 2, got {num_objects}")
        import_mujoco()
        try:
            from ogbench.manipspace import lie
            from ogbench.manipspace.envs.cube_env import CubeEnv
        except ImportError as error:
            raise SimulatorError(f"ogbench is not installed ({error}): pip install 'openjepa[ogbench]'") from error
        # Data collection is the mode that draws nothing from NumPy's global generator.
        game = CubeEnv(CUBES[num_objects], mode="data_collection", visualize_info=False)
        game.reset(seed=0)
        game.model.actuator_gainprm[:ARM, 0] *= STIFFER
        game.model.actuator_biasprm[:ARM, 1] *= STIFFER
        for part in ("black", "pad_gray"):
            game.model.material(f"ur5e/robotiq/{part}").rgba = VIOLET
        scene = Scene(
            game.model,
            game.data,
            origin=(0.425, 0.0, 0.0),
            quarters=0,
            objects=tuple(f"object_joint_{i}" for i in range(num_objects)),
            half=0.02,
            substeps=12,
            distance=0.65,
            max_turn=0.2,
            yaw=0.8,
        )
        super().__init__(scene, size, render_mode)
        self._lie, self._ik, self._flange = lie, game._ik, game._T_pa  # from between the fingertips to the arm's end
        self._data.ctrl[:ARM] = HOME
        self._lead(np.add(scene.origin, [0.0, 0.0, 0.15]), 0.0, 0.0)
        self._data.qpos[:ARM], self._data.qvel[:] = self._data.ctrl[:ARM], 0.0
        self._place_geoms()
        self._begin()

    def _hand(self) -> tuple[np.ndarray, float, float]:
        site, fingers = self._data.site("ur5e/robotiq/pinch"), self._data.joint("ur5e/robotiq/right_driver_joint")
        yaw = self._lie.SO3.from_matrix(site.xmat.reshape(3, 3)).compute_yaw_radians()
        return site.xpos, yaw - ACROSS, fingers.qpos[0] / CLOSED

    def _lead(self, point: np.ndarray, yaw: float, closed: float) -> None:
        down = self._lie.SO3.from_z_radians(yaw + ACROSS) @ self._lie.SO3(np.array([0.0, 1.0, 0.0, 0.0]))
        end = self._lie.SE3.from_rotation_and_translation(down, point) @ self._flange
        joints = self._ik.solve(end.translation(), end.rotation().wxyz, curr_qpos=self._data.ctrl[:ARM])
        self._data.ctrl[:] = [*joints, CTRL * closed]


if gymnasium is not None:
    gymnasium.register("jepa/OGBench-v0", entry_point="jepa.planning.envs.ogbench:OGBenchEnv")
