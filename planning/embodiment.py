"""How a robot writes its states and actions, one YAML of `configs/embodiment/` each, and the way to the 7-D and back.

The world model reads and imagines the numbers of V-JEPA 2-AC (see `jepa.pose`): xyz in metres, extrinsic xyz Euler
angles in radians, closedness; actions are changes of these, composed in the world frame. `Adapter` translates.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from jepa.config import ConfigError, load_config
from jepa.planning.planners.base import Bounds
from jepa.planning.rotations import WIDTHS, from_matrix, to_matrix
from jepa.pose import euler, rotation

METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
RADIANS = {"rad": 1.0, "deg": torch.pi / 180}
CHOICES = {
    "position": tuple(METRES),
    "angle": tuple(RADIANS),
    "rotation": tuple(WIDTHS),
    "frame": ("base", "end_effector", "camera"),
    "actions": ("delta", "absolute"),
    "gripper_actions": ("delta", "absolute"),
}


@dataclass(frozen=True)
class Embodiment:
    """The conventions of one robot; the defaults are those of V-JEPA 2-AC. States are [position, rotation, gripper].

    `action_limit`, `workspace` and `camera_pose` are in the world model's own metres and radians, whatever the robot's
    units. The last is read with frame: camera, and by worlds with extrinsics.
    """

    name: str = "v_jepa_2_ac"
    rate: float = 4.0  # control steps a second; one frame and one action each
    position: str = "m"  # m, cm, mm
    angle: str = "rad"  # rad, deg; quaternions have no unit
    rotation: str = "extrinsic_xyz"  # a convention of `rotations.WIDTHS`; `none` has no numbers
    axes: tuple[str, ...] = ("x", "y", "z")  # where the robot's three axes point in the frame, such as -y, x, z
    frame: str = "base"  # base; camera: all numbers in its axes; end_effector: changes along the hand's own axes
    camera_pose: tuple[
        float, ...
    ] = ()  # (6) the camera in the base, m and extrinsic xyz rad; for frame: camera, and worlds with extrinsics
    actions: str = "delta"  # delta: changes of position and rotation; absolute: the pose to go to
    action_scale: tuple[float, ...] = (1.0, 1.0, 1.0)  # position units that a change of 1 means, of each axis
    turn_scale: float = 1.0  # the same of rotation, in units of `angle`
    gripper: tuple[float, ...] = (0.0, 1.0)  # its number when open and when closed; empty: there is none
    gripper_actions: str = "delta"
    action_limit: tuple[float, ...] = ()  # (7) largest change in one step: m, rad, closedness; 0 freezes an axis
    workspace: tuple[tuple[float, float], ...] = ()  # (3) lowest and highest x, y, z, in m
    camera: str = ""  # notes for people: which camera, where it stands
    crop: str = ""  # and which part of its picture is used, which the world decides (`runs.Reading`)

    def __post_init__(self) -> None:
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                self._refuse(key, f"'{getattr(self, key)}' is not one of {', '.join(choices)}")
        if sorted(a.removeprefix("-") for a in self.axes) != ["x", "y", "z"]:
            self._refuse("axes", f"{list(self.axes)} must name x, y and z once each, as in [-y, x, z]")
        lengths = {"camera_pose": (0, 6), "action_scale": (3,), "gripper": (0, 2), "action_limit": (0, 7)}
        for key, allowed in {**lengths, "workspace": (0, 3)}.items():
            if len(getattr(self, key)) not in allowed:
                self._refuse(key, f"{len(getattr(self, key))} values; wanted {' or '.join(map(str, allowed))}")
        if self.gripper and self.gripper[0] == self.gripper[1]:
            self._refuse("gripper", "open and closed are the same number; an empty list means no gripper")
        if not self.rate > 0 or 0.0 in (*self.action_scale, self.turn_scale) or any(v < 0 for v in self.action_limit):
            self._refuse(
                "rate, action_scale, turn_scale, action_limit", "rate above 0, scales not 0, limits at least 0"
            )
        if any(len(edge) != 2 or not edge[0] < edge[1] for edge in self.workspace):
            self._refuse("workspace", "each axis is [lowest, highest]")
        if self.frame == "end_effector" and self.actions == "absolute":
            self._refuse("frame", "end_effector is for changes; targets are written in the base's or a camera's axes")
        if self.frame == "camera" and not self.camera_pose:
            self._refuse("camera_pose", "frame: camera needs the camera's pose in the base, 6 numbers")
        if self.rotation.startswith("quaternion") and self.turn_scale != 1.0:
            self._refuse("turn_scale", "quaternions cannot be scaled")

    def _refuse(self, key: str, why: str) -> None:
        raise ConfigError(f"embodiment {self.name}: {key}: {why}")


def load(name: str = "") -> "Adapter":
    """The adapter of a preset of `configs/embodiment/` or a YAML path; "" is V-JEPA 2-AC's own conventions.

    Raises:
        ConfigError: no such preset, or a value that makes no sense; names preset and key.
    """
    return Adapter(load_config(Embodiment, "embodiment", name) if name else Embodiment())


class Adapter:
    """To and from the 7-D of V-JEPA 2-AC, for any leading dimensions, differentiable, on any device.

    `width` is how many numbers a state and an action of the robot have.
    """

    def __init__(self, embodiment: Embodiment) -> None:
        self.embodiment = e = embodiment
        self.width = 3 + WIDTHS[e.rotation] + (1 if e.gripper else 0)
        self._axes = torch.zeros(3, 3, dtype=torch.float64)  # from the robot's three axes to those of its frame
        for robot, name in enumerate(e.axes):
            self._axes["xyz".index(name[-1]), robot] = -1.0 if name.startswith("-") else 1.0
        camera = torch.tensor(e.camera_pose if e.frame == "camera" else (0.0,) * 6, dtype=torch.float64)
        self._origin, self._base = camera[:3], rotation(camera[3:])  # of the frame, in the base

    def pose(self, state: Tensor) -> Tensor:
        """Robot states (..., width) -> poses (..., 7). Raises ConfigError for states of another width."""
        place, turn, closed = self._read(state, of_action=False)
        return torch.cat([self._out(place), euler(self._base.to(turn) @ turn), closed], -1)

    def state(self, pose: Tensor) -> Tensor:
        """Poses (..., 7) -> robot states (..., width)."""
        turn = self._base.to(pose).mT @ rotation(pose[..., 3:6])
        return self._write(self._into(pose[..., :3]), turn, pose[..., 6:], of_action=False)

    def change(self, action: Tensor, state: Tensor) -> Tensor:
        """Robot actions (..., width), taken in robot states (..., width) -> actions (..., 7) of the world model."""
        now = self.pose(state)
        hand = rotation(now[..., 3:6])
        place, turn, closed = self._read(action, of_action=True)
        if self.embodiment.actions == "absolute":
            move, turn = self._out(place) - now[..., :3], self._base.to(turn) @ turn @ hand.mT
        else:
            along = self._along(hand)
            move, turn = (along @ place[..., None])[..., 0], along @ turn @ along.mT
        if self.embodiment.gripper_actions == "absolute":
            closed = closed - now[..., 6:]
        return torch.cat([move, euler(turn), closed], -1)

    def action(self, change: Tensor, state: Tensor) -> Tensor:
        """Actions (..., 7) of the world model, in robot states (..., width) -> robot actions (..., width)."""
        now = self.pose(state)
        hand, turn, move, closed = rotation(now[..., 3:6]), rotation(change[..., 3:6]), change[..., :3], change[..., 6:]
        if self.embodiment.actions == "absolute":
            place, turn = self._into(now[..., :3] + move), self._base.to(turn).mT @ turn @ hand
        else:
            along = self._along(hand)
            place, turn = (along.mT @ move[..., None])[..., 0], along.mT @ turn @ along
        if self.embodiment.gripper_actions == "absolute":
            closed = (closed + now[..., 6:]).clamp(0.0, 1.0)  # as the world model imagines it; the fingers have ends
        return self._write(place, turn, closed, of_action=True)

    def bounds(self) -> Bounds:
        """The box of one action in the world model's units. Raises ConfigError where the embodiment states none."""
        limit = torch.tensor(self.embodiment.action_limit)
        if not len(limit):
            raise ConfigError(f"embodiment {self.embodiment.name}: give action_limit: the largest change in one step")
        return Bounds(-limit, limit, tuple((limit == 0).nonzero()[:, 0].tolist()))

    def camera(self) -> Tensor:
        """The camera's pose (6) in the base. Raises ConfigError where the embodiment does not say it."""
        if not self.embodiment.camera_pose:
            raise ConfigError(
                f"embodiment {self.embodiment.name}: give camera_pose: the world model reads where the camera stands"
            )
        return torch.tensor(self.embodiment.camera_pose)

    def _out(self, place: Tensor) -> Tensor:
        return place @ self._base.to(place).mT + self._origin.to(place)

    def _into(self, place: Tensor) -> Tensor:
        return (place - self._origin.to(place)) @ self._base.to(place)

    def _along(self, hand: Tensor) -> Tensor:
        """Along which axes (..., 3, 3) changes are written."""
        return hand if self.embodiment.frame == "end_effector" else self._base.to(hand)

    def _units(self, of_action: bool, like: Tensor) -> tuple[Tensor, float, float, float]:
        """m and rad that a number 1 means, the gripper's number at closedness 0, and the change of it up to 1."""
        e = self.embodiment
        scaled = of_action and e.actions == "delta"
        step = METRES[e.position] * torch.tensor(e.action_scale if scaled else (1.0, 1.0, 1.0)).to(like)
        turn = 1.0 if e.rotation.startswith("quaternion") else RADIANS[e.angle] * (e.turn_scale if scaled else 1.0)
        opened, closed = e.gripper or (0.0, 1.0)
        return step, turn, 0.0 if of_action and e.gripper_actions == "delta" else opened, closed - opened

    def _read(self, numbers: Tensor, of_action: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Place (..., 3) in m, rotation (..., 3, 3), both in the frame's axes, and closedness (..., 1)."""
        e = self.embodiment
        if numbers.shape[-1] != self.width:
            raise ConfigError(
                f"embodiment {e.name} has {self.width} numbers in a state and an action; these have {numbers.shape[-1]}"
            )
        step, turn, opened, span = self._units(of_action, numbers)
        axes, end = self._axes.to(numbers), 3 + WIDTHS[e.rotation]
        rotated = axes @ to_matrix(turn * numbers[..., 3:end], e.rotation) @ axes.mT
        closed = (numbers[..., end:] - opened) / span if e.gripper else numbers.new_zeros(*numbers.shape[:-1], 1)
        return (step * numbers[..., :3]) @ axes.mT, rotated, closed

    def _write(self, place: Tensor, turn: Tensor, closed: Tensor, of_action: bool) -> Tensor:
        """The inverse of `_read`."""
        step, unit, opened, span = self._units(of_action, place)
        axes = self._axes.to(place)
        parts = [place @ axes / step, from_matrix(axes.mT @ turn @ axes, self.embodiment.rotation) / unit]
        return torch.cat([*parts, opened + span * closed] if self.embodiment.gripper else parts, -1)
