"""The ways robots write a rotation, to matrices and back: Euler angles in any order, quaternions, rotation vectors."""

import itertools

import torch
from torch import Tensor

from jepa.pose import euler, rotation

EULER = tuple(f"{k}_{''.join(o)}" for k in ("extrinsic", "intrinsic") for o in itertools.permutations("xyz"))
WIDTHS = {**dict.fromkeys(EULER, 3), "rotation_vector": 3, "quaternion_wxyz": 4, "quaternion_xyzw": 4, "none": 0}
"""Every convention and how many numbers it takes. Angles are radians; `none` is a robot that cannot turn its hand."""


def to_matrix(numbers: Tensor, convention: str) -> Tensor:
    """Rotation matrices (..., 3, 3) of `numbers` (..., w) in a convention of `WIDTHS`; quaternions are normalised."""
    if convention == "none":
        return torch.eye(3, dtype=numbers.dtype, device=numbers.device).expand(*numbers.shape[:-1], 3, 3)
    if convention == "rotation_vector":
        half = numbers.norm(dim=-1, keepdim=True) / 2
        vector = torch.sinc(half / torch.pi) / 2 * numbers  # sin(θ/2) times the axis, without a division by 0
        return _of_quaternion(torch.cat([half.cos(), vector], -1))
    if convention.startswith("quaternion"):
        return _of_quaternion(numbers if convention.endswith("wxyz") else numbers.roll(1, -1))
    axes, sign, ordered = _euler(convention, numbers)
    return _relabelled(rotation(sign * ordered), axes, back=True)


def from_matrix(matrix: Tensor, convention: str) -> Tensor:
    """The numbers (..., w) of rotation matrices (..., 3, 3). Quaternions have w ≥ 0, rotation vectors at most π."""
    if convention == "none":
        return matrix.new_zeros(*matrix.shape[:-2], 0)
    if convention == "rotation_vector":
        w, vector = _quaternion(matrix).split((1, 3), -1)
        length = vector.norm(dim=-1, keepdim=True)
        small = length < 1e-6
        angle = 2 * torch.atan2(length, w)
        return torch.where(small, 2.0 * torch.ones_like(w), angle / length.clamp(min=1e-12)) * vector
    if convention.startswith("quaternion"):
        found = _quaternion(matrix)
        return found if convention.endswith("wxyz") else found.roll(-1, -1)
    axes, sign, _ = _euler(convention, matrix[..., 0])
    angles = sign * euler(_relabelled(matrix, axes, back=False))
    return angles.flip(-1) if convention.startswith("intrinsic") else angles


def _euler(convention: str, angles: Tensor) -> tuple[list[int], int, Tensor]:
    """The axes in extrinsic order, the sign of their order, and the angles in it.

    Turning about moving axes a, b, c is turning about fixed ones c, b, a. Any order is xyz after the axes are
    relabelled; an odd relabelling is a mirror, which turns every angle round.
    """
    kind, names = convention.split("_")
    axes = ["xyz".index(name) for name in names]
    if kind == "intrinsic":
        axes, angles = axes[::-1], angles.flip(-1)
    sign = 1 if (axes[1] - axes[0]) % 3 == 1 else -1
    return axes, sign, angles


def _relabelled(matrix: Tensor, axes: list[int], back: bool) -> Tensor:
    """`matrix` with axis axes[i] called i, or the other way round."""
    order = [axes.index(i) for i in range(3)] if back else axes
    return matrix[..., order, :][..., order]


def _of_quaternion(wxyz: Tensor) -> Tensor:
    w, x, y, z = torch.nn.functional.normalize(wxyz, dim=-1).unbind(-1)
    rows = (
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    )
    return torch.stack(rows, -2)


def _quaternion(matrix: Tensor) -> Tensor:
    """Unit quaternions (..., 4) in the order w x y z, w ≥ 0, of rotation matrices (..., 3, 3).

    4·q·qᵀ can be read off the matrix; its row of the largest diagonal element is q times a number that is not small.
    """
    m = [[matrix[..., i, j] for j in range(3)] for i in range(3)]
    wx, wy, wz = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    xy, xz, yz = m[0][1] + m[1][0], m[0][2] + m[2][0], m[1][2] + m[2][1]
    ww, xx = 1 + m[0][0] + m[1][1] + m[2][2], 1 + m[0][0] - m[1][1] - m[2][2]
    yy, zz = 1 - m[0][0] + m[1][1] - m[2][2], 1 - m[0][0] - m[1][1] + m[2][2]
    rows = [[ww, wx, wy, wz], [wx, xx, xy, xz], [wy, xy, yy, yz], [wz, xz, yz, zz]]
    outer = torch.stack([torch.stack(row, -1) for row in rows], -2)  # (..., 4, 4)
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*outer.shape[:-2], 1, 4)
    found = torch.nn.functional.normalize(outer.gather(-2, best).squeeze(-2), dim=-1)
    return torch.where(found[..., :1] < 0, -found, found)
