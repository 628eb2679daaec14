"""A gantry arm with a two-finger gripper over a table with one or two objects: gymnasium API on MuJoCo.

Actions and poses follow V-JEPA 2-AC (see `jepa.pose`); a control step lasts 0.25 s. x is right, y away from
the camera, z up from the table top, all in metres.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa.planning.gym_env import GymEnv, gymnasium
from jepa.planning.offscreen import SimulatorError, import_mujoco, open_renderer
from jepa.planning.skills import SKILLS, behave
from jepa.planning.tabletop_look import LookWriter, Variation, look_dtype, sample_look
from jepa.planning.tabletop_scene import FINGER_TRAVEL, mjcf

MAX_STEP = 0.06  # m per axis and control step
MAX_TURN = 0.2  # rad per axis and control step
ACTION_LIMIT = np.array([MAX_STEP] * 3 + [MAX_TURN] * 3 + [1.0], np.float32)
POSE_LOW = np.array([-0.14, -0.14, 0.02, -0.3, -0.3, -0.8, 0.0])  # of the fingertips: m, rad, closedness
POSE_HIGH = np.array([0.14, 0.14, 0.17, 0.3, 0.3, 0.8, 1.0])  # the hand never leaves the image
OBJECT_REACH = 0.105  # m, objects start within ± this
_CHUNKS, _RAMP, _SUBSTEPS = 10, 7, 5  # 10 × 5 substeps of 5 ms; targets move over the first 7 chunks, then settle
_BLOCKED = np.array([0.01] * 3 + [0.1] * 3)  # m, rad


@dataclass(frozen=True)
class Config:
    size: int = 64  # pixels, height = width
    variation: float | Mapping[str, float] = 1.0  # how much looks differ between episodes, 0 to 1; or by factor
    num_objects: int = 1


def build(config: Config) -> "TabletopEnv":
    """Open the environment that `config` describes."""
    return TabletopEnv(config.size, config.variation, config.num_objects)


class TabletopEnv(GymEnv):
    """See `GymEnv`; states and actions are of 7 numbers. A scene has a look, and objects and hand at random places.

    Raises:
        SimulatorError: a bad argument, or MuJoCo, gymnasium or offscreen OpenGL is missing.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (gymnasium's own convention)
    name = "tabletop"

    def __init__(
        self,
        size: int = 64,
        variation: float | Mapping[str, float] = 1.0,
        num_objects: int = 1,
        render_mode: str | None = "rgb_array",
    ) -> None:
        if num_objects not in (1, 2):
            raise SimulatorError(f"tabletop: num_objects 1 or 2; got {num_objects}")
        self.variation, self._mujoco = Variation.of(variation), import_mujoco()
        state_limit = np.array([1.0] * 3 + [np.pi] * 3 + [1.0])
        super().__init__(size, render_mode, ACTION_LIMIT, (-state_limit, state_limit))
        self.fps, self.num_objects, self.skills = 4.0, num_objects, SKILLS
        self.action_units = self.state_units = ("m", "m", "m", "rad", "rad", "rad", "closedness")
        self.workspace = np.stack([POSE_LOW[:3], POSE_HIGH[:3]])
        self._model = self._mujoco.MjModel.from_xml_string(mjcf(num_objects))
        self._data = self._mujoco.MjData(self._model)
        self._signature = int(self._mujoco.mjtState.mjSTATE_INTEGRATION)
        self._physics = np.empty(self._mujoco.mj_stateSize(self._model, self._signature))
        self._writer = LookWriter(self._mujoco, self._model, num_objects)
        self._renderers: dict[int, Any] = {}
        self._target = np.zeros(7)
        self._look = np.zeros((), look_dtype(num_objects))

    def _new_scene(self, rng: np.random.Generator) -> None:
        self._mujoco.mj_resetData(self._model, self._data)
        self._dress(sample_look(rng, self.variation, self.num_objects))
        spots: list[np.ndarray] = []
        while len(spots) < self.num_objects:
            spot = rng.uniform(-OBJECT_REACH, OBJECT_REACH, 2)
            if all(np.linalg.norm(spot - other) > 0.1 for other in spots):
                spots.append(spot)
        for i, spot in enumerate(spots):
            self._put_object(i, spot, yaw=rng.uniform(-np.pi, np.pi))
        xyz = rng.uniform(POSE_LOW[:3], POSE_HIGH[:3])
        while any(np.linalg.norm(xyz[:2] - spot) < 0.12 for spot in spots):
            xyz = rng.uniform(POSE_LOW[:3], POSE_HIGH[:3])
        self.place_ee(xyz, float(rng.random() < 0.5))

    def close(self) -> None:
        """Free the OpenGL contexts. Allowed more than once."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}

    # --- planning ----------------------------------------------------------------------------------------------

    def advance(self, action: np.ndarray) -> np.ndarray:
        """One control step (0.25 s) of physics without an image.

        The action (7) is clipped to ±ACTION_LIMIT, the pose it leads to, to POSE_LOW..POSE_HIGH. It starts from the
        commanded pose, so that free motion adds up without drift; where contact blocked the arm, from the true pose.
        Returns the change (7) float32 that was really commanded.

        Raises:
            SimulatorError: the action is not 7 finite numbers.
        """
        action, start = self._checked(action), self._target
        self._target = _integrate(start, np.clip(action, -ACTION_LIMIT, ACTION_LIMIT))
        self._servo(start)
        commanded = _difference(start, self._target)
        blocked = np.abs(self._data.qpos[_JOINT_OF_POSE] - self._target[:6]) > _BLOCKED
        self._target = self._target.copy()
        self._target[:6][blocked] = self._data.qpos[_JOINT_OF_POSE][blocked]
        return commanded.astype(np.float32)

    def get_state(self) -> np.ndarray:
        """Physics, targets and look as one float64 vector: all that decides the future and the image."""
        self._mujoco.mj_getState(self._model, self._data, self._physics, self._signature)
        return np.concatenate([self._physics, self._target, np.atleast_1d(self._look).view(np.float64).ravel()])

    def set_state(self, state: np.ndarray) -> None:
        """Return to a `get_state` vector, of this or of another instance with as many objects.

        Raises:
            SimulatorError: the vector is of another kind of scene.
        """
        size, dtype = len(self._physics), self._look.dtype
        if state.shape != (size + 7 + dtype.itemsize // 8,):
            raise SimulatorError(f"tabletop: a state of shape {state.shape} is not of this environment")
        look = state[size + 7 :].copy().view(dtype)[0]
        if look.tobytes() != self._look.tobytes():
            self._dress(np.array(look))
        self._target = state[size : size + 7].copy()
        self._mujoco.mj_setState(self._model, self._data, state[:size], self._signature)
        self._place_geoms()

    def ee_pose(self) -> np.ndarray:
        """True pose (7) of the fingertips: the joints are its coordinates; closedness is the fingers' mean."""
        q = self._data.qpos
        return np.append(q[_JOINT_OF_POSE], np.clip((q[6] + q[7]) / (2 * FINGER_TRAVEL), 0.0, 1.0))

    def object_pos(self, i: int = 0) -> np.ndarray:
        """Centre (3) of object `i`, in m."""
        return self._data.qpos[8 + 7 * i : 11 + 7 * i].copy()

    def place_ee(self, xyz: np.ndarray, closedness: float = 0.0) -> None:
        """Put the upright, resting end-effector at `xyz` (clipped to the workspace) and let the scene settle."""
        pose = np.array([*np.asarray(xyz, np.float64), 0.0, 0.0, 0.0, closedness])
        self._target = np.clip(pose, POSE_LOW, POSE_HIGH)
        self._data.qpos[:8] = self._joints(self._target)
        self._data.qvel[:8] = 0.0
        self._servo(self._target)

    def place_object(self, i: int, xy: np.ndarray) -> None:
        """Put object `i` upright and resting on the table at `xy`, keep its yaw, and let the scene settle."""
        w, _, _, z = self._data.qpos[11 + 7 * i : 15 + 7 * i]
        self._put_object(i, np.asarray(xy, np.float64), yaw=2 * np.arctan2(z, w))
        self._servo(self._target)

    def render_at(self, size: int) -> np.ndarray:
        """The camera's view, (size, size, 3) uint8."""
        if size not in self._renderers:  # twice as large, then averaged: multisampling would cost ten times as much
            self._renderers[size] = open_renderer(self._mujoco, self._model, 2 * size)
        renderer = self._renderers[size]
        renderer.update_scene(self._data, camera="front")
        large = renderer.render().astype(np.uint16)
        total = large[::2, ::2] + large[::2, 1::2] + large[1::2, ::2] + large[1::2, 1::2]
        return ((total + 2) >> 2).astype(np.uint8)

    def behave(self, rng: np.random.Generator, **mixture: Any) -> Iterator[tuple[int, np.ndarray]]:
        """Endless (label, action (7)) pairs: see `jepa.planning.skills.behave`."""
        return behave(self, rng, **mixture)

    # --- inside ------------------------------------------------------------------------------------------------

    def _dress(self, look: np.ndarray) -> None:
        self._look = look
        self._writer.write(look)

    def _servo(self, start: np.ndarray) -> None:
        """Drive the joints from target `start` (7) to the current target over one control step."""
        begin, end = self._joints(start), self._joints(self._target)
        for chunk in range(1, _CHUNKS + 1):
            self._data.ctrl[:] = begin + min(chunk / _RAMP, 1.0) * (end - begin)
            self._mujoco.mj_step(self._model, self._data, nstep=_SUBSTEPS)
        self._place_geoms()

    def _place_geoms(self) -> None:
        # mj_forward would also change the solver's warm start, and with it the future.
        self._mujoco.mj_kinematics(self._model, self._data)
        self._mujoco.mj_camlight(self._model, self._data)

    @staticmethod
    def _joints(pose: np.ndarray) -> np.ndarray:
        finger = FINGER_TRAVEL * pose[6]
        return np.array([*pose[:3], pose[5], pose[4], pose[3], finger, finger])

    def _put_object(self, i: int, xy: np.ndarray, yaw: float) -> None:
        height = self._look["object_size"][i, 1 if self._look["object_shape"][i] == 1 else 2]
        quat = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        self._data.qpos[8 + 7 * i : 15 + 7 * i] = [*xy, height, *quat]
        self._data.qvel[8 + 6 * i : 14 + 6 * i] = 0.0


_JOINT_OF_POSE = [0, 1, 2, 5, 4, 3]  # the hinges come in the order z, y, x


def _integrate(pose: np.ndarray, action: np.ndarray) -> np.ndarray:
    """The workspace pose (7) that `action` (7) leads to."""
    end = pose + action
    if action[3] or action[4]:  # a turn about z alone just adds to the last Euler angle, whatever the pose
        import torch

        from jepa import pose as poses

        end = poses.integrate(torch.from_numpy(pose), torch.from_numpy(action)).numpy()
    return np.clip(end, POSE_LOW, POSE_HIGH)


def _difference(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The action (7) that leads from pose `start` to pose `end`."""
    if np.array_equal(start[3:5], end[3:5]):
        return end - start
    import torch

    from jepa import pose as poses

    return poses.delta(torch.from_numpy(start), torch.from_numpy(end)).numpy()


if gymnasium is not None:
    gymnasium.register("jepa/Tabletop-v0", entry_point="jepa.planning.envs.tabletop:TabletopEnv")
