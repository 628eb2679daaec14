"""What arms of other packages share: their MuJoCo scene, in the tabletop's frame, behind the contract of `envs.base`.

The origin lies on the table top under the middle of the workspace: x is to the right in the picture, y away from the
camera, z up, in m. So the tabletop's skills, experts and tasks work on all of them as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa.planning.gym_env import GymEnv
from jepa.planning.offscreen import SimulatorError, import_mujoco, open_renderer
from jepa.planning.skills import SKILLS, behave

MAX_STEP = 0.06  # m per axis and control step
POSE_LOW = np.array([-0.14, -0.14, 0.02, 0.0, 0.0, 0.0, 0.0])  # of the point between the fingertips, and closedness
POSE_HIGH = np.array([0.14, 0.14, 0.17, 0.0, 0.0, 0.0, 1.0])
OBJECT_REACH = 0.105  # m, objects start within ± this
CHUNKS, _RAMP = 10, 7  # of a control step; targets move over the first 7 chunks, then settle
_BLOCKED = np.array([0.01] * 3 + [0.1] * 3 + [np.inf])  # m, rad


@dataclass(frozen=True)
class Scene:
    """A compiled scene of another package, and where the tabletop's frame lies in it.

    origin: (3) m, and quarters: turns of 90° about z, from the simulator's frame to ours. objects: their free joints.
    half: m, half an object's height. substeps: of physics in a tenth of a control step. distance: m, of the camera.
    max_turn: rad per control step, and yaw: rad, the largest |angle|, about z; 0 for a hand that cannot turn.
    """

    model: Any
    data: Any
    origin: tuple[float, float, float]
    quarters: int
    objects: tuple[str, ...]
    half: float
    substeps: int
    distance: float
    max_turn: float = 0.0
    yaw: float = 0.0


class ArmEnv(GymEnv):
    """See `GymEnv`; states and actions are of 7 numbers. A scene has objects and the hand at random places.

    An environment of this kind opens its scene, and says where the hand is (`_hand`) and how it is led (`_lead`).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (gymnasium's own convention)
    skills = SKILLS
    action_units = state_units = ("m", "m", "m", "rad", "rad", "rad", "closedness")

    def __init__(self, scene: Scene, size: int, render_mode: str | None) -> None:
        action_limit = np.array([MAX_STEP] * 3 + [0.0, 0.0, scene.max_turn, 1.0])
        super().__init__(size, render_mode, action_limit, (np.full(7, -4.0), np.full(7, 4.0)))
        self._mujoco, self._scene, self._model, self._data = import_mujoco(), scene, scene.model, scene.data
        self._model.vis.quality.shadowsize = self._model.vis.quality.offsamples = 0  # they would cost most of the time
        self.num_objects = len(scene.objects)
        self.fps = 1 / (CHUNKS * scene.substeps * self._model.opt.timestep)
        turn = np.array([0, 0, 0, 0, 0, scene.yaw, 0])
        self._low, self._high = POSE_LOW - turn, POSE_HIGH + turn
        self.workspace = np.stack([self._low[:3], self._high[:3]])
        self._objects = [int(self._model.joint(name).qposadr[0]) for name in scene.objects]
        cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[scene.quarters % 4]  # whole numbers, so that turning is exact
        self._turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        self._signature = int(self._mujoco.mjtState.mjSTATE_INTEGRATION)
        self._physics = np.empty(self._mujoco.mj_stateSize(self._model, self._signature))
        self._renderers: dict[int, Any] = {}
        self._place_geoms()

    def _new_scene(self, rng: np.random.Generator) -> None:
        self.set_state(self._start)
        spots, yaws = [], []
        while len(spots) < self.num_objects:
            spot = rng.uniform(-OBJECT_REACH, OBJECT_REACH, 2)
            if all(np.linalg.norm(spot - other) > 0.1 for other in spots):
                spots.append(spot)
                yaws.append(rng.uniform(-np.pi, np.pi))
        xyz, closed = rng.uniform(POSE_LOW[:3], POSE_HIGH[:3]), float(rng.random() < 0.5)
        while any(np.linalg.norm(xyz[:2] - spot) < 0.12 for spot in spots):
            xyz = rng.uniform(POSE_LOW[:3], POSE_HIGH[:3])
        for i in range(self.num_objects):  # aside, while the hand goes where it should
            self._put(i, np.array([0.1 * i, -0.3]), 0.0)
        for _ in range(8):
            start, self._target = self._target, np.array([*xyz, 0.0, 0.0, 0.0, closed])
            self._servo(start)
        for i, (spot, yaw) in enumerate(zip(spots, yaws, strict=True)):
            self._put(i, spot, yaw)
        self._servo(self._target)

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
        action, start = self._checked(action), self._target
        self._target = np.clip(start + np.clip(action, -self.action_limit, self.action_limit), self._low, self._high)
        self._servo(start)
        commanded = self._target - start
        here = self.ee_pose()
        self._target = np.where(np.abs(here - self._target) > _BLOCKED, here, self._target)
        return commanded.astype(np.float32)

    def get_state(self) -> np.ndarray:
        """Physics and target as one float64 vector."""
        self._mujoco.mj_getState(self._model, self._data, self._physics, self._signature)
        return np.concatenate([self._physics, self._target])

    def set_state(self, state: np.ndarray) -> None:
        """Return to a `get_state` vector. Raises SimulatorError for another shape."""
        size = len(self._physics)
        if state.shape != (size + 7,):
            raise SimulatorError(f"{self.name}: a state of shape {state.shape} is not of this environment")
        self._target = state[size:].copy()
        self._mujoco.mj_setState(self._model, self._data, state[:size], self._signature)
        self._place_geoms()

    def ee_pose(self) -> np.ndarray:
        """True pose (7): the point between the fingertips; the hand keeps upright."""
        point, yaw, closed = self._hand()
        return np.array([*self._ours(point), 0.0, 0.0, yaw, np.clip(closed, 0.0, 1.0)])

    def object_pos(self, i: int = 0) -> np.ndarray:
        """Centre (3) of object `i`, in m."""
        at = self._objects[i]
        return self._ours(self._data.qpos[at : at + 3])

    def behave(self, rng: np.random.Generator, **mixture: Any) -> Iterator[tuple[int, np.ndarray]]:
        """Endless (label, action (7)) pairs: see `jepa.planning.skills.behave`."""
        return behave(self, rng, **mixture)

    def render_at(self, size: int) -> np.ndarray:
        """The view along y, from above, (size, size, 3) uint8."""
        if size not in self._renderers:
            self._renderers[size] = open_renderer(self._mujoco, self._model, size)
        camera = self._mujoco.MjvCamera()
        camera.lookat[:] = np.add(self._scene.origin, [0.0, 0.0, 0.05])
        camera.azimuth, camera.elevation = 90.0 * (1 + self._scene.quarters), -40.0
        camera.distance = self._scene.distance
        self._renderers[size].update_scene(self._data, camera=camera)
        return self._renderers[size].render().copy()

    # --- what differs between arms -----------------------------------------------------------------------------

    def _hand(self) -> tuple[np.ndarray, float, float]:
        """The point (3) between the fingertips in the simulator's frame, the yaw in rad, the closedness."""
        raise NotImplementedError

    def _lead(self, point: np.ndarray, yaw: float, closed: float) -> None:
        """Set the simulator's controls so that `_hand` becomes this."""
        raise NotImplementedError

    # --- inside ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """To be called when `_hand` and `_lead` can be: every scene starts from here."""
        self._target = np.append(self.ee_pose()[:3], np.zeros(4))
        self._start = self.get_state()

    def _ours(self, point: np.ndarray) -> np.ndarray:
        return (point - self._scene.origin) @ self._turn

    def _servo(self, start: np.ndarray) -> None:
        """Lead the hand from target `start` (7) to the current target over one control step."""
        for chunk in range(1, CHUNKS + 1):
            now = start + min(chunk / _RAMP, 1.0) * (self._target - start)
            self._lead(self._turn @ now[:3] + self._scene.origin, now[5], now[6])
            self._mujoco.mj_step(self._model, self._data, nstep=self._scene.substeps)
        self._place_geoms()

    def _put(self, i: int, xy: np.ndarray, yaw: float) -> None:
        at, place = self._objects[i], self._turn @ [*xy, self._scene.half] + self._scene.origin
        yaw += np.pi / 2 * self._scene.quarters
        self._data.qpos[at : at + 7] = [*place, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]

    def _place_geoms(self) -> None:
        self._mujoco.mj_kinematics(self._model, self._data)  # mj_forward would change the solver's warm start
        self._mujoco.mj_camlight(self._model, self._data)
