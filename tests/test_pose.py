"""Pose arithmetic: published V-JEPA 2-AC values, scipy's rotations, and the two functions as inverses."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from jepa.pose import delta, euler, integrate, rotation

# The two states of `franka_example_traj.npz`, which V-JEPA 2 ships.
FIRST = torch.tensor([0.58044, -0.00202, 0.24756, -3.06662, 0.03053, -1.91275, 0.99697], dtype=torch.float64)
SECOND = torch.tensor([0.67281, 0.02897, 0.33184, -3.05144, 0.01771, -1.91250, 0.99697], dtype=torch.float64)


def test_published_integration() -> None:
    action = torch.tensor([0.05, -0.02, 0.01, 0.1, -0.05, 0.2, -0.3], dtype=torch.float64)
    expected = [0.630439, -0.022021, 0.257557, -3.052827, 0.141449, -1.709063, 0.696971]
    assert integrate(FIRST, action).tolist() == pytest.approx(expected, abs=1e-5)


def test_published_difference() -> None:
    expected = [0.092369, 0.030987, 0.084280, -0.017165, -0.009999, -2.4e-5, 0.0]
    assert delta(FIRST, SECOND).tolist() == pytest.approx(expected, abs=1.5e-5)


def test_rotations_agree_with_scipy() -> None:
    angles = np.random.default_rng(0).uniform([-3.1, -1.5, -3.1], [3.1, 1.5, 3.1], (5, 40, 3))
    ours = rotation(torch.from_numpy(angles))
    theirs = Rotation.from_euler("xyz", angles.reshape(-1, 3)).as_matrix().reshape(5, 40, 3, 3)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)
    np.testing.assert_allclose(euler(ours).numpy(), angles, atol=1e-9)


def test_gimbal_lock_keeps_the_rotation() -> None:
    angles = torch.tensor([[0.3, np.pi / 2, 0.8], [0.3, -np.pi / 2, 0.8]], dtype=torch.float64)
    matrix = rotation(angles)
    torch.testing.assert_close(rotation(euler(matrix)), matrix, atol=1e-7, rtol=0)


def test_near_the_lock_single_precision_keeps_the_rotation_too() -> None:
    """A hand that points all but straight up or down: the angles are quotients of numbers that are mostly noise."""
    generator = torch.Generator().manual_seed(0)
    turn, lean = (torch.rand(500, 3, generator=generator, dtype=torch.float64) - 0.5 for _ in range(2))
    for off in 10.0 ** torch.arange(-7.0, -1):
        aim = lean * torch.tensor([6.0, 0.0, 6.0]) + torch.tensor([0.0, torch.pi / 2 - off, 0.0])
        matrix = rotation(turn).float() @ (rotation(turn).mT @ rotation(aim)).float()
        error = (rotation(euler(matrix).double()) - rotation(aim)).norm(dim=(1, 2))
        assert error.max() < 2e-3, off


def test_delta_undoes_integrate_and_batches_do_not_mix() -> None:
    generator = torch.Generator().manual_seed(0)
    state = torch.rand(4, 3, 7, generator=generator, dtype=torch.float64) * 0.5 + 0.25
    action = (torch.rand(4, 3, 7, generator=generator, dtype=torch.float64) - 0.5) * 0.2
    end = integrate(state, action)
    torch.testing.assert_close(delta(state, end), action, atol=1e-12, rtol=0)
    torch.testing.assert_close(integrate(state[1, 2], action[1, 2]), end[1, 2], atol=1e-15, rtol=0)


def test_closedness_is_clipped() -> None:
    state, action = torch.zeros(7), torch.tensor([0.0, 0, 0, 0, 0, 0, 1.0])
    assert integrate(state, 2 * action)[6] == 1.0
    assert integrate(state, -action)[6] == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("move", [integrate, delta])
def test_autocast_leaves_poses_as_they_are(move, dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(64, 7, generator=generator, dtype=dtype) - 0.5 for _ in range(2))
    plain = move(one, other)
    with torch.autocast("cpu", torch.bfloat16):
        inside = move(one, other)
        compiled = torch.compile(move, backend="eager", fullgraph=True)(one, other)
    assert inside.dtype == dtype and torch.equal(inside, plain) and torch.equal(compiled, plain)
    assert move(one.to("meta"), other.to("meta")).shape == plain.shape  # a device that autocast does not know
