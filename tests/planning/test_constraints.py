"""Constraints: projections against a search for the nearest point, what is forced, and mistakes in one line."""

import pytest
import torch
from torch import Tensor

from jepa.config import ConfigError
from jepa.planning.constraints import Ball, Bounds, Schedule, vjepa2_ac_bounds

LIMIT, POINT = torch.ones(3), torch.full((1, 3), 2.0)
ORDER = {"l1": 1, "l2": 2, "linf": torch.inf}
each_norm = pytest.mark.parametrize("norm", ORDER)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def box(half: float, axes: int = 3, **rest) -> Bounds:
    return Bounds(torch.full((axes,), -half), torch.full((axes,), half), **rest)


def length(actions: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(actions, ord=ORDER[norm], dim=-1)


@each_norm
@pytest.mark.parametrize("low", [[-1.0, -1.0], [0.25, -0.5]])
def test_the_projection_is_the_nearest_point_of_box_and_ball(norm, low):
    """A point of a convex set is the nearest one exactly if no other point lies towards where we came from."""
    ball = Ball((0, 1), 0.6, norm)
    bounds = Bounds(torch.tensor(low), torch.tensor([1.0, 0.5]), balls=(ball,))
    grid = torch.cartesian_prod(*(torch.linspace(a, b, 61) for a, b in zip(low, [1.0, 0.5], strict=True)))
    allowed = grid[length(grid, norm) <= 0.6]
    points = 3 * torch.randn(200, 1, 2, generator=generator())
    projected = bounds.project(points)
    assert (length(projected, norm) <= 0.6 + 1e-6).all() and torch.equal(bounds.clip(projected), projected)
    angles = ((points - projected) * (allowed - projected)).sum(-1)  # (200, grid)
    assert angles.max() < 1e-5 and len(allowed) > 100


def test_known_projections():
    point = torch.tensor([[3.0, -1.0, 0.5]])
    wide = {"half": 9.0}
    cases = {"l1": [1.5, 0.0, 0.0], "l2": [1.5 * x / 10.25**0.5 for x in (3, -1, 0.5)], "linf": [1.5, -1.0, 0.5]}
    for norm, expected in cases.items():
        projected = box(**wide, balls=(Ball((0, 1, 2), 1.5, norm),)).project(point)
        torch.testing.assert_close(projected, torch.tensor([expected]), atol=1e-6, rtol=0)
    tied = box(**wide, balls=(Ball((0, 1), 1.0, "l1"),)).project(torch.tensor([[2.0, -2.0, 5.0]]))
    torch.testing.assert_close(tied, torch.tensor([[0.5, -0.5, 5.0]]))


@each_norm
def test_the_result_is_allowed_and_what_is_allowed_stays_to_the_bit(norm):
    bounds = box(0.8, 4, frozen=(3,), balls=(Ball((0, 2), 0.5, norm),))
    points = torch.randn(50, 6, 4, generator=generator())
    projected = bounds.project(points)
    assert (length(projected[..., [0, 2]], norm) <= 0.5 + 1e-6).all()
    assert (projected.abs() <= 0.8).all() and (projected[..., 3] == 0).all()
    free = points[..., 1].clamp(-0.8, 0.8)
    assert torch.equal(projected[..., 1], free)
    torch.testing.assert_close(bounds.project(projected), projected, atol=1e-6, rtol=0)
    inside = 0.2 * torch.rand(50, 6, 4, generator=generator()) * torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert torch.equal(bounds.project(inside), inside)
    assert torch.equal(bounds.project(inside.double()), inside.double())


def test_all_of_it_is_where_the_box_is():
    with torch.device("meta"):  # where a tensor would land that is not made where the box is
        bounds = Bounds(-LIMIT, LIMIT, frozen=(1,), balls=(Ball((0, 1), 0.5),), schedules=(Schedule(2, (0.1,)),))
        assert bounds.project(POINT).tolist() == [[0.5, 0.0, pytest.approx(0.1)]]
        assert bounds.scale.tolist() == [1.0, 0.0, 1.0]


def test_a_schedule_forces_its_steps_even_outside_the_box_and_moves_on_with_time():
    bounds = box(0.75, 2, schedules=(Schedule(1, (None, None, 1.0)), Schedule(0, (0.1,))))
    actions = torch.full((3, 5, 2), 0.3)
    projected = bounds.project(actions)
    assert (projected[..., 0] == 0.1).all()
    assert (projected[:, :2, 1] == 0.3).all() and (projected[:, 2:, 1] == 1.0).all()
    assert (actions == 0.3).all()
    assert bounds.later(1).project(actions)[0, :, 1].tolist() == pytest.approx([0.3, 1.0, 1.0, 1.0, 1.0])
    assert (bounds.later(7).project(actions)[..., 1] == 1.0).all()


def test_a_schedule_is_any_function_of_time_and_None_frees_again():
    bounds = box(1.0, 1, schedules=(Schedule(0, (0.5, -0.5, None)),))
    assert bounds.project(torch.full((4, 1), 0.2))[:, 0].tolist() == pytest.approx([0.5, -0.5, 0.2, 0.2])


def test_what_is_forced_leaves_the_other_axes_of_its_ball_the_rest():
    bounds = box(1.0, 2, balls=(Ball((0, 1), 0.5, "l1"),), schedules=(Schedule(0, (0.3,)),))
    torch.testing.assert_close(bounds.project(torch.tensor([[0.9, -0.9]])), torch.tensor([[0.3, -0.2]]))


def test_the_action_set_of_vjepa2_ac():
    bounds = vjepa2_ac_bounds(0.05, pins={2: 0.02}, close_from=1)
    actions = bounds.project(torch.full((1, 3, 7), -2.0))[0]
    expected = torch.tensor([-0.05, -0.05, 0.02, 0.0, 0.0, 0.0])
    torch.testing.assert_close(actions[:, :6], expected.expand(3, 6))
    assert actions[:, 6].tolist() == [-0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: box(1.0, frozen=(3,)), "no axis 3"),
        (lambda: box(1.0, balls=(Ball((0, 1), 1.0), Ball((1, 2), 1.0))), "one ball only"),
        (lambda: box(1.0, balls=(Ball((0, 1), 0.5),), schedules=(Schedule(0, (None, 0.6)),)), "no action"),
        (lambda: Ball((0,), 0.0), "radius"),
        (lambda: Ball((0,), 1.0, "l3"), "l1, l2, linf"),
        (lambda: Schedule(0, ()), "at least one value"),
        (lambda: Bounds(torch.ones(2), torch.zeros(2)), "low ≤ high"),
        (lambda: Bounds(torch.tensor([torch.nan]), torch.ones(1)), "finite"),
        (lambda: Bounds(torch.zeros(1), torch.tensor([torch.inf])), "finite"),
    ],
)
def test_mistakes_are_one_line(wrong, says):
    with pytest.raises(ConfigError, match=says) as caught:
        wrong()
    assert "\n" not in str(caught.value)
