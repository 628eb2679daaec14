"""Measures without labels, on spectra whose answer is known."""

import math

import pytest
import torch

from jepa.models.encoder import build_encoder
from jepa.probes.suite.measures import alpha_req, lidar, make_views, measure, std_over_positions


def orthonormal(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Columns that are orthonormal and have mean 0."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(x - x.mean(0)).Q


def crossed(classes: int, views: int, width: int) -> torch.Tensor:
    """Views (n, V, D) around 0, whose spread within classes is the same in every direction: exactly I / D."""
    apart = orthonormal(views, width, 1) * math.sqrt(views)
    return apart.expand(classes, views, width).clone()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.3])
def test_alpha_is_the_exponent_of_a_power_law(alpha):
    power = torch.arange(1, 41, dtype=torch.float64) ** (-alpha / 2)
    features = orthonormal(100, 40, 0) * power @ orthonormal(40, 40, 2).T  # a mean that all share does not matter
    assert alpha_req(features + 5) == pytest.approx(alpha, abs=1e-9)
    assert alpha_req(features * 30) == pytest.approx(alpha, abs=1e-9)


def test_alpha_of_what_does_not_vary_is_not_a_number():
    assert math.isnan(alpha_req(torch.ones(10, 4)))


def test_alpha_leaves_out_the_tail_that_the_number_of_clips_bends():
    power = torch.arange(1, 41, dtype=torch.float64) ** -0.5
    bent = power.clone()
    bent[20:] *= 1e-3
    assert alpha_req(orthonormal(100, 40, 0) * bent) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_lidar_counts_the_directions_that_tell_clips_apart(directions):
    views = crossed(50, 20, 8)
    means = torch.zeros(50, 8, dtype=torch.float64)
    means[:, :directions] = orthonormal(50, directions, 3)
    assert lidar(views + 3 * means[:, None]) == pytest.approx(directions, rel=1e-6)


def test_lidar_does_not_count_what_only_views_differ_in():
    means = torch.zeros(50, 1, 8, dtype=torch.float64)
    means[:, 0, :4] = orthonormal(50, 4, 3)
    same = lidar(crossed(50, 20, 8) + means)
    noisy = crossed(50, 20, 8)
    noisy[..., :3] *= 100  # three of the four directions drown
    assert same == pytest.approx(4, rel=1e-6) and lidar(noisy + means) == pytest.approx(1, abs=0.05)


def test_lidar_weighs_directions_by_how_well_they_tell():
    means = torch.zeros(50, 1, 8, dtype=torch.float64)
    means[:, 0, :2] = orthonormal(50, 2, 3) * torch.tensor([3.0, 1.0])
    shares = torch.tensor([0.9, 0.1])
    assert lidar(crossed(50, 20, 8) + means) == pytest.approx(math.exp(-(shares * shares.log()).sum()), rel=1e-5)


def test_spread_over_positions_ignores_time_and_clips():
    tokens = torch.rand(3, 2, 1, 5, generator=torch.Generator().manual_seed(0)).expand(3, 2, 7, 5)
    assert std_over_positions(tokens) == 0
    place = torch.tensor([-2.0, 2.0])[None, None, :, None].expand(3, 2, 2, 5)
    assert std_over_positions(place + tokens[:, :, :2]) == pytest.approx(2, abs=1e-5)


def test_views_are_boxes_of_their_clip_and_a_function_of_the_seed():
    frames = torch.randint(0, 255, (2, 4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    views = make_views(frames, 3, seed=1)
    assert views.shape == (2, 3, 4, 3, 16, 16)
    assert torch.equal(views, make_views(frames, 3, seed=1)) and not torch.equal(views, make_views(frames, 3, seed=2))
    assert not torch.equal(views[0, 0], views[0, 1])
    still = make_views(frames[:, :1].expand(-1, 4, -1, -1, -1), 3, seed=1)
    assert torch.equal(still[:, :, 0], still[:, :, 3])  # one box for all frames


def test_an_encoder_is_measured(tiny):
    frames = torch.randint(0, 255, (11, 4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    encoder = build_encoder(tiny, 0).eval().requires_grad_(False)
    found = measure(encoder, frames, make_views(frames[:5], 3, 0))
    assert found.rank == 10 and found.lidar_rank == 4
    assert 1 <= found.rankme <= 10.01 and 1 <= found.lidar <= 4.01
    assert min(found.over_time, found.over_positions, found.over_clips) > 0
    still = measure(encoder, frames[:, :1].expand(-1, 4, -1, -1, -1), make_views(frames[:5], 3, 0))
    assert still.over_time < found.over_time
