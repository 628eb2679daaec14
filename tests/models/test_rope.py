"""Rotary positions are pinned to published fixtures and to a slow reading of their definition."""

import torch

from jepa.models.rope import apply_rope, positions, rope_table

TILED_6 = [-2.234742, 2.084087, 2.982737, 1.063305, 4.422280, 6.021488]
TILED_20 = [
    *(-0.12722, 0.16653, 0.08362, 0.4493, 0.45341, 0.61473, 0.6904, 0.80332, 0.89811, 1.00068),
    *(-1.25834, 1.46414, 0.51495, 1.6196, 1.37529, 1.64427, 1.67838, 1.80806, 1.89621, 2.00143),
]


def turn_one_axis(x: torch.Tensor, position: int, layout: str) -> torch.Tensor:
    """Turn the first axis' segment only: heads of 3·len(x) channels, other axes at position 0."""
    dim = len(x)
    place = torch.tensor([[[position, 0, 0]]])
    full = torch.cat((x, torch.ones(2 * dim)))[None, None, None]
    return apply_rope(full, rope_table(place, 3 * dim, layout))[0, 0, 0, :dim]


def test_tiled_layout_matches_fixtures():
    six = turn_one_axis(torch.arange(1.0, 7.0), 2, "tiled")
    twenty = turn_one_axis(torch.arange(1, 21) / 10, 3, "tiled")
    torch.testing.assert_close(six, torch.tensor(TILED_6), atol=1e-5, rtol=0)
    torch.testing.assert_close(twenty, torch.tensor(TILED_20), atol=1e-5, rtol=0)


def test_interleaved_layout_is_a_rotation_and_relative():
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 32), torch.randn(1, 1, 1, 32)

    def product(a: list[int], b: list[int], layout: str) -> torch.Tensor:
        turned = [apply_rope(x, rope_table(torch.tensor([[p]]), 32, layout)) for x, p in ((q, a), (k, b))]
        return (turned[0] * turned[1]).sum()

    near, far = product([1, 2, 3], [2, 4, 1], "interleaved"), product([6, 5, 9], [7, 7, 7], "interleaved")
    torch.testing.assert_close(near, far)
    tiled = product([1, 2, 3], [2, 4, 1], "tiled") - product([6, 5, 9], [7, 7, 7], "tiled")
    assert tiled.abs() > 1e-3  # the quirk of the released weights: not relative


def test_channels_beyond_three_axes_do_not_turn():
    x = torch.randn(1, 1, 1, 32)
    turned = apply_rope(x, rope_table(torch.tensor([[[5, 6, 7]]]), 32, "interleaved"))
    assert torch.equal(turned[..., 30:], x[..., 30:])
    assert not torch.equal(turned[..., :30], x[..., :30])


def test_positions_of_ids():
    assert positions(torch.tensor([[777]]), (8, 16, 16)).tolist() == [[[3, 0, 9]]]
    assert positions(torch.tensor([[777]]), (8, 24, 24)).tolist() == [[[1, 8, 9]]]
