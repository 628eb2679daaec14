"""PushT (gym-pusht): a round pusher and a T on a plane, behind the contract of `envs.base`, with 2-D actions.

One pixel of the 512 × 512 arena counts as one millimetre. A control step lasts 0.5 s, long enough for the pusher to get
where it is sent. The task is Florence et al.'s and Chi et al.'s (Diffusion Policy, arXiv 2303.04137).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jepa.planning.gym_env import GymEnv, gymnasium
from jepa.planning.offscreen import SimulatorError
from jepa.planning.skills import mixed

ACTION_LIMIT = np.array([0.06, 0.06], np.float32)  # m
LOW, HIGH = 0.025, 0.487  # m: where the pusher may be sent, clear of the walls
TICKS, TICK = 50, 0.01  # of physics in a control step; s
SHARES = {"random": 0.3, "push": 0.7}
BEHIND = 0.1  # m between the pusher and the T's centre before a push
MM = 1000.0  # pixels in a metre


@dataclass(frozen=True)
class Config:
    size: int = 64  # pixels, height = width


def build(config: Config) -> "PushTEnv":
    """Open the environment that `config` describes."""
    return PushTEnv(config.size)


class PushTEnv(GymEnv):
    """See `GymEnv`; states are the pusher's place (2), actions its way (2). A scene has it and the T apart, at random.

    gym-pusht draws a goal; here the goal is an image, so none is drawn.

    Raises:
        SimulatorError: a bad argument, or gym-pusht is missing.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 (gymnasium's own convention)
    name = "pusht"
    fps, num_objects, skills = 2.0, 1, tuple(SHARES)
    action_units = state_units = ("m", "m")

    def __init__(self, size: int = 64, render_mode: str | None = "rgb_array") -> None:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into memory
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            from gym_pusht.envs.pusht import PushTEnv as Game
        except ImportError as error:
            raise SimulatorError(f"gym-pusht is not installed ({error}): pip install 'openjepa[pusht]'") from error
        super().__init__(size, render_mode, ACTION_LIMIT, (np.zeros(2), np.full(2, 0.512)))
        self._game = Game()
        self.workspace = np.array([[LOW, LOW], [HIGH, HIGH]])
        self._state = np.zeros(12)  # pusher xy, its velocity, T xy, velocity, angle, angular velocity, target xy; px

    def _new_scene(self, rng: np.random.Generator) -> None:
        block, angle = rng.uniform(140, 372, 2), rng.uniform(-np.pi, np.pi)
        pusher = rng.uniform(40, 472, 2)
        while np.linalg.norm(pusher - block) < 130:  # no part of the T is farther than 115 from its origin
            pusher = rng.uniform(40, 472, 2)
        self._state = np.array([*pusher, 0, 0, *block, 0, 0, angle, 0, *pusher], np.float64)

    def close(self) -> None:
        """Nothing is held."""

    def advance(self, action: np.ndarray) -> np.ndarray:
        """One control step: the pusher, which nothing stops, is sent on by `action` (2), in m.

        Returns the change (2) float32 that was really commanded, after clipping.

        Raises:
            SimulatorError: the action is not 2 finite numbers.
        """
        action, start = self._checked(action), self._state[10:]
        target = np.clip(start + MM * np.clip(action, -ACTION_LIMIT, ACTION_LIMIT), MM * LOW, MM * HIGH)
        self._build()
        pusher, game = self._game.agent, self._game
        for _ in range(TICKS):
            pull = game.k_p * (target - pusher.position) - game.k_v * np.array(pusher.velocity)
            pusher.velocity = (np.array(pusher.velocity) + pull * TICK).tolist()
            game.space.step(TICK)
        block = game.block
        moved = [*pusher.position, *pusher.velocity, *block.position, *block.velocity]
        self._state = np.array([*moved, block.angle, block.angular_velocity, *target])
        return ((target - start) / MM).astype(np.float32)

    def get_state(self) -> np.ndarray:
        """Places, velocities and the target (12), in pixels, radians and seconds."""
        return self._state.copy()

    def set_state(self, state: np.ndarray) -> None:
        """Return to a `get_state` vector. Raises SimulatorError for another shape."""
        if state.shape != self._state.shape:
            raise SimulatorError(f"pusht: a state of shape {state.shape} is not of this environment")
        self._state = np.array(state, np.float64)

    def ee_pose(self) -> np.ndarray:
        """The pusher's place (2), in m: x to the right, y down."""
        return self._state[:2] / MM

    def object_pos(self, i: int = 0) -> np.ndarray:
        """The T's centre of mass (x, y, 0), in m."""
        return np.array([*self.corners().mean(0), 0.0])

    def corners(self) -> np.ndarray:
        """The corners (8, 2) of the two rectangles that make the T, in m: where it is and how it is turned."""
        turn = np.array([[np.cos(a := self._state[8]), -np.sin(a)], [np.sin(a), np.cos(a)]])
        return (_CORNERS @ turn.T + self._state[4:6]) / MM

    def behave(
        self, rng: np.random.Generator, shares: dict[str, float] = SHARES, noise: tuple[float, ...] = (0.003,)
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Endless (label, action (2)) pairs: smooth random motion, and pushes through a point of the T from any side.

        Raises:
            ConfigError: shares or noise (m, a level is drawn for each bout) make no mixture.
        """
        begun = mixed(shares, self.skills, noise)
        while True:
            label, level = int(rng.choice(2, p=begun)), float(rng.choice(noise))
            moves = self._push(rng) if label else _wander(rng)
            for _, action in zip(range(10), moves, strict=False):
                yield label, action + level * rng.normal(size=2)

    def render_at(self, size: int) -> np.ndarray:
        """The view from above, (size, size, 3) uint8, averaged down from the 512 pixels that the game draws."""
        from PIL import Image
        from pygame import surfarray

        self._build()
        self._game.goal_pose = np.array([-1000.0, -1000.0, 0.0])
        picture = surfarray.array3d(self._game._draw()).transpose(1, 0, 2)
        return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BOX))

    # --- inside ------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        # A new space each time: the old one remembers contacts, which no state vector holds.
        self._game._setup()
        s, pusher, block = self._state.tolist(), self._game.agent, self._game.block
        pusher.position, pusher.velocity = s[0:2], s[2:4]
        block.angle, block.position = s[8], s[4:6]
        block.velocity, block.angular_velocity = s[6:8], s[9]
        self._game.space.reindex_shapes_for_body(pusher)
        self._game.space.reindex_shapes_for_body(block)

    def _push(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Go round to a random side, then through a random point of the T."""
        heading, depth = rng.uniform(-np.pi, np.pi), rng.uniform(0.06, 0.16)
        way = np.array([np.cos(heading), np.sin(heading)])
        aim = self.corners()[rng.integers(8)] * 0.5 + 0.5 * self.object_pos()[:2]
        behind = np.clip(aim - (BEHIND + 0.02) * way, LOW, HIGH)
        for _ in range(4):
            if np.linalg.norm(behind - self.ee_pose()) < 0.02:
                break
            yield behind - self.ee_pose()
        end = aim + (depth - BEHIND / 2) * way
        while np.linalg.norm(left := end - self.ee_pose()) > 0.015:
            yield left * min(1.0, 0.06 / float(np.abs(left).max()))


def _wander(rng: np.random.Generator) -> Iterator[np.ndarray]:
    smooth = rng.normal(size=2)
    while True:
        smooth = 0.8 * smooth + 0.6 * rng.normal(size=2)
        yield np.clip(0.6 * smooth, -1, 1) * ACTION_LIMIT


_CORNERS = np.array([[-60, 30], [60, 30], [60, 0], [-60, 0], [-15, 30], [-15, 120], [15, 120], [15, 30]], np.float64)

if gymnasium is not None:
    gymnasium.register("jepa/PushT-v0", entry_point="jepa.planning.envs.pusht:PushTEnv")
