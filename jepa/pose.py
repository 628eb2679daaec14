"""Pose arithmetic of V-JEPA 2-AC: 7-D end-effector states, and actions as differences between them.

A state is [x y z (m), Euler angles (rad), gripper closedness 0..1]. The angles are extrinsic xyz: R = Rz·Ry·Rx.
An action is [Δxyz, Δrotation (Euler of ΔR), Δclosedness], rotations composed in the world frame: R' = ΔR·R.
Autocast leaves them as they are: poses are computed in the precision that they come in.
Source: V-JEPA 2-AC (`facebookresearch/vjepa2`, DROID data set and planner).
"""

import torch
from torch import Tensor

UNITS = ("m", "m", "m", "rad", "rad", "rad", "closedness")
"""Of a state's seven numbers, and of an action's."""


def rotation(euler: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of extrinsic xyz Euler angles (..., 3) in radians."""
    (cx, cy, cz), (sx, sy, sz) = euler.cos().unbind(-1), euler.sin().unbind(-1)
    rows = (
        torch.stack([cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx], -1),
        torch.stack([sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx], -1),
        torch.stack([-sy, cy * sx, cy * cx], -1),
    )
    return torch.stack(rows, -2)


def euler(matrix: Tensor) -> Tensor:
    """Extrinsic xyz Euler angles (..., 3) of rotation matrices (..., 3, 3); the middle angle is in [-π/2, π/2]."""
    cosine = torch.hypot(matrix[..., 0, 0], matrix[..., 1, 0])  # |cos y|
    y = torch.atan2(-matrix[..., 2, 0], cosine)
    x = torch.atan2(matrix[..., 2, 1], matrix[..., 2, 2])
    z = torch.atan2(matrix[..., 1, 0], matrix[..., 0, 0])
    # Pointing straight up or down, only x ∓ z is defined: take z = 0. The angles are as wrong as the matrix's rounding
    # over the cosine, and taking z = 0 is as wrong as the cosine: the two meet at the root of the rounding.
    locked = cosine < torch.finfo(matrix.dtype).eps ** 0.5
    x = torch.where(locked, torch.atan2(-matrix[..., 1, 2], matrix[..., 1, 1]), x)
    return torch.stack([x, y, torch.where(locked, torch.zeros_like(z), z)], -1)


def integrate(state: Tensor, action: Tensor) -> Tensor:
    """The state (..., 7) that `action` (..., 7) leads to from `state` (..., 7); closedness is clipped to 0..1."""
    turned = euler(_product(rotation(action[..., 3:6]), rotation(state[..., 3:6])))
    gripper = (state[..., 6:] + action[..., 6:]).clamp(0.0, 1.0)
    return torch.cat([state[..., :3] + action[..., :3], turned, gripper], -1)


def delta(start: Tensor, end: Tensor) -> Tensor:
    """The action (..., 7) that leads from state `start` (..., 7) to state `end` (..., 7)."""
    turn = euler(_product(rotation(end[..., 3:6]), rotation(start[..., 3:6]).transpose(-1, -2)))
    return torch.cat([end[..., :3] - start[..., :3], turn, end[..., 6:] - start[..., 6:]], -1)


def _product(one: Tensor, other: Tensor) -> Tensor:
    """`one @ other` in their own precision: autocast would round rotations to 3 digits, 4e-3 rad in every step."""
    device = one.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return one @ other
    with torch.autocast(device, enabled=False):
        return one @ other
