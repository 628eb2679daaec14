"""The Fetch arm of gymnasium-robotics with a cube on a table, in the tabletop's frame, for the tabletop's tasks.

The origin lies on the table top under the middle of the workspace: x away from the robot, y to its left, z up, in m.
The hand cannot turn: the rotation axes of an action are 0. A control step lasts 0.24 s.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa.planning.offscreen import SimulatorError, import_mujoco, open_renderer
from jepa.planning.skills import SKILLS, behave

try:  # an optional extra, as in the tabletop
    import gymnasium
    from gymnasium import Env
except ImportError:
    gymnasium, Env = None, object  # type: ignore[assignment,misc]

MAX_STEP = 0.06  # m per axis and control step
ACTION_LIMIT = np.array([MAX_STEP] * 3 + [0.0] * 3 + [1.0], np.float32)
ORIGIN = np.array([1.34, 0.75, 0.40])  # m, in the simulator's frame
POSE_LOW = np.array([-0.14, -0.14, 0.02, 0.0])  # of the point between the fingertips, and closedness
POSE_HIGH = np.array([0.14, 0.14, 0.17, 1.0])
OBJECT_REACH = 0.105  # m, the cube starts within ± this
FINGER_TRAVEL = 0.05  # m each finger slides from closed to open
HALF = 0.025  # m, of the cube's side
_CHUNKS, _RAMP, _SUBSTEPS = 10, 7, 12  # of 2 ms; targets move over the first 7 chunks, then settle
_BLOCKED = 0.01  # m
_POSITION = [0, 1, 2, 6]  # of a pose (7), what can change


@dataclass(frozen=True)
class Config:
    size: int = 64  # pixels, height = width


def build(config: Config) -> "FetchEnv":
    """Open the environment that `config` describes."""
    return FetchEnv(config.size)


class FetchEnv(Env):
    """Observation {"image": (size, size, 3) uint8, "state": (7) float32}; action (7) float32; reward always 0.

    Raises:
        SimulatorError: a bad argument, or gymnasium-robotics, MuJoCo or offscreen OpenGL is missing.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (gymnasium's own convention)
    fps, num_objects, skills = 1 / 0.24, 1, SKILLS
    action_units = state_units = ("m", "m", "m", "rad", "rad", "rad", "closedness")

    def __init__(self, size: int = 64, render_mode: str | None = "rgb_array") -> None:
        if size < 8:
            raise SimulatorError(f"fetch: size ≥ 8, got {size}")
        self._mujoco = import_mujoco()
        try:
            from gymnasium_robotics.envs.fetch.pick_and_place import MujocoFetchPickAndPlaceEnv
        except ImportError as error:
            raise SimulatorError(
                f"gymnasium-robotics is not installed ({error}): pip install 'openjepa[fetch]'"
            ) from error
        game = MujocoFetchPickAndPlaceEnv()
        self._model, self._data = game.model, game.data
        self._model.vis.quality.shadowsize = self._model.vis.quality.offsamples = 0  # they would cost most of the time
        self._model.site_rgba[:, 3] = 0.0  # no mark of a goal, and none of the body that leads the hand
        self._model.geom_rgba[self._model.geom_bodyid == self._model.body("robot0:mocap").id, 3] = 0.0
        self.size, self.render_mode = size, render_mode
        self.action_limit, self.workspace = ACTION_LIMIT.copy(), np.stack([POSE_LOW[:3], POSE_HIGH[:3]])
        self.action_space = gymnasium.spaces.Box(-ACTION_LIMIT, ACTION_LIMIT, dtype=np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            image=gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8),
            state=gymnasium.spaces.Box(-4.0, 4.0, (7,), np.float32),
        )
        self._cube = int(self._model.joint("object0:joint").qposadr[0])
        self._fingers = [int(self._model.joint(f"robot0:{side}_gripper_finger_joint").qposadr[0]) for side in "lr"]
        self._signature = int(self._mujoco.mjtState.mjSTATE_INTEGRATION)
        self._physics = np.empty(self._mujoco.mj_stateSize(self._model, self._signature))
        self._renderers: dict[int, Any] = {}
        self._place_geoms()
        self._offset = self._data.mocap_pos[0] - self._data.site("robot0:grip").xpos
        self._target = np.append(self.ee_pose()[:3], 0.0)
        self._start = self.get_state()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """A new scene: cube and hand drawn from `seed`. There are no options."""
        super().reset(seed=seed)
        if options:
            raise SimulatorError(f"fetch: reset takes no options, got {sorted(options)}")
        self.set_state(self._start)
        rng = self.np_random
        spot, yaw = rng.uniform(-OBJECT_REACH, OBJECT_REACH, 2), rng.uniform(-np.pi, np.pi)
        xyz, closed = rng.uniform(POSE_LOW[:3], POSE_HIGH[:3]), float(rng.random() < 0.5)
        while np.linalg.norm(xyz[:2] - spot) < 0.12:
            xyz = rng.uniform(POSE_LOW[:3], POSE_HIGH[:3])
        aside = [*(ORIGIN + np.array([0.0, -0.3, HALF])), 1.0, 0.0, 0.0, 0.0]  # while the hand goes where it should
        self._data.qpos[self._cube : self._cube + 7] = aside
        for _ in range(8):
            start, self._target = self._target, np.array([*xyz, closed])
            self._servo(start)
        here = [*(ORIGIN + np.append(spot, HALF)), np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        self._data.qpos[self._cube : self._cube + 7] = here
        self._servo(self._target)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """`advance`, then look: (observation, 0.0, False, False, {"action": what was commanded after clipping})."""
        commanded = self.advance(action)
        return self._observe(), 0.0, False, False, {"action": commanded}

    def render(self) -> np.ndarray | None:
        """The camera's view at the environment's own size, when `render_mode` is "rgb_array"."""
        return self.render_at(self.size) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the OpenGL contexts. Allowed more than once."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}

    def advance(self, action: np.ndarray) -> np.ndarray:
        """One control step without an image; clipped, and on from the commanded pose, as in the tabletop.

        Raises:
            SimulatorError: the action is not 7 finite numbers.
        """
        action = np.asarray(action, np.float64)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise SimulatorError(f"fetch: an action is 7 finite numbers, got {action.tolist()}")
        start = self._target
        change = np.clip(action, -ACTION_LIMIT, ACTION_LIMIT)[_POSITION]
        self._target = np.clip(start + change, POSE_LOW, POSE_HIGH)
        self._servo(start)
        commanded = np.zeros(7, np.float32)
        commanded[_POSITION] = self._target - start
        here = self.ee_pose()[:3]
        blocked = np.abs(here - self._target[:3]) > _BLOCKED
        self._target[:3][blocked] = here[blocked]
        return commanded

    def get_state(self) -> np.ndarray:
        """Physics and target as one float64 vector."""
        self._mujoco.mj_getState(self._model, self._data, self._physics, self._signature)
        return np.concatenate([self._physics, self._target])

    def set_state(self, state: np.ndarray) -> None:
        """Return to a `get_state` vector. Raises SimulatorError for another shape."""
        size = len(self._physics)
        if state.shape != (size + 4,):
            raise SimulatorError(f"fetch: a state of shape {state.shape} is not of this environment")
        self._target = state[size:].copy()
        self._mujoco.mj_setState(self._model, self._data, state[:size], self._signature)
        self._place_geoms()

    def ee_pose(self) -> np.ndarray:
        """True pose (7): the point between the fingertips; angles are 0, for the hand keeps upright."""
        closed = 1.0 - self._data.qpos[self._fingers].mean() / FINGER_TRAVEL
        xyz = self._data.site("robot0:grip").xpos - ORIGIN
        return np.array([*xyz, 0.0, 0.0, 0.0, np.clip(closed, 0.0, 1.0)])

    def object_pos(self, i: int = 0) -> np.ndarray:
        """Centre (3) of the cube, in m."""
        return self._data.qpos[self._cube : self._cube + 3] - ORIGIN

    def behave(self, rng: np.random.Generator, **mixture: Any) -> Iterator[tuple[int, np.ndarray]]:
        """Endless (label, action (7)) pairs: see `jepa.planning.skills.behave`."""
        return behave(self, rng, **mixture)

    def render_at(self, size: int) -> np.ndarray:
        """The view from the robot's right: x is to the right, y away from the camera, (size, size, 3) uint8."""
        if size not in self._renderers:
            self._renderers[size] = open_renderer(self._mujoco, self._model, size)
        camera = self._mujoco.MjvCamera()
        camera.lookat[:] = ORIGIN + np.array([0.0, 0.0, 0.05])
        camera.distance, camera.azimuth, camera.elevation = 0.85, 90.0, -40.0
        self._renderers[size].update_scene(self._data, camera=camera)
        return self._renderers[size].render().copy()

    # --- inside ------------------------------------------------------------------------------------------------

    def _observe(self) -> dict[str, np.ndarray]:
        return {"image": self.render_at(self.size), "state": self.ee_pose().astype(np.float32)}

    def _servo(self, start: np.ndarray) -> None:
        """Lead the hand from target `start` (4) to the current target over one control step."""
        for chunk in range(1, _CHUNKS + 1):
            now = start + min(chunk / _RAMP, 1.0) * (self._target - start)
            self._data.mocap_pos[0] = now[:3] + ORIGIN + self._offset
            self._data.ctrl[:] = FINGER_TRAVEL * (1.0 - now[3])
            self._mujoco.mj_step(self._model, self._data, nstep=_SUBSTEPS)
        self._place_geoms()

    def _place_geoms(self) -> None:
        self._mujoco.mj_kinematics(self._model, self._data)  # mj_forward would change the solver's warm start
        self._mujoco.mj_camlight(self._model, self._data)


if gymnasium is not None:
    gymnasium.register("jepa/Fetch-v0", entry_point="jepa.planning.envs.fetch:FetchEnv")
