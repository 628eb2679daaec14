"""Rotary positions are pinned to published fixtures and to slow readings of their definition."""

import itertools
import math

import pytest
import torch

from jepa.models.rope import RopeTable, positions, rope_table, turn

TILED_6 = [-2.234742, 2.084087, 2.982737, 1.063305, 4.422280, 6.021488]
TILED_20 = [
    *(-0.12722, 0.16653, 0.08362, 0.4493, 0.45341, 0.61473, 0.6904, 0.80332, 0.89811, 1.00068),
    *(-1.25834, 1.46414, 0.51495, 1.6196, 1.37529, 1.64427, 1.67838, 1.80806, 1.89621, 2.00143),
]


def apply_rope(x: torch.Tensor, table: RopeTable) -> torch.Tensor:
    """Queries x (B, heads, K, head_dim) as `turn` gives them back."""
    return turn(x.transpose(1, 2)[:, :, None].expand(-1, -1, 3, -1, -1), table)[0].transpose(1, 2)


def turn_slowly(qkv: torch.Tensor, table: RopeTable) -> list[torch.Tensor]:
    """As `turn`, one after the other and left to autograd."""
    q, k, v = qkv.unbind(2)
    cos, sin = (part[:, :, None].to(qkv.dtype) for part in table)
    return [*(x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2) * sin for x in (q, k)), v]


def qkv_and_table(layout: str, rows: int = 2) -> tuple[torch.Tensor, RopeTable]:
    """Numbers (2, 5, 3, 3, 8) and a table, of `rows` rows, of places at which no channel that turns stands still."""
    rng = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, 5, 9, 8, dtype=torch.float64, generator=rng).unflatten(2, (3, 3))
    return qkv, rope_table(torch.randint(1, 24, (rows, 5, 3), generator=rng), 8, layout)


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


@pytest.mark.parametrize("layout", ["interleaved", "tiled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_all_at_once_is_one_after_the_other(dtype, layout):
    """Equal to the last bit, values and gradients, where the gradients of the three differ."""
    qkv, table = qkv_and_table(layout, rows=1)
    results = []
    for way in (turn, turn_slowly):
        leaf = qkv.to(dtype).requires_grad_()
        parts = way(leaf, table)
        sum((part.square() * weight).sum() for part, weight in zip(parts, (1, 2, 3), strict=True)).backward()
        results.append([*parts, leaf.grad])
    assert all(torch.equal(fast, slow) for fast, slow in zip(*results, strict=True))
    assert results[0][0].dtype == dtype and not torch.equal(results[0][0], results[0][1])


@pytest.mark.parametrize("layout", ["interleaved", "tiled"])
def test_gradients_of_a_turn_are_those_of_finite_differences(layout):
    qkv, table = qkv_and_table(layout)
    assert torch.autograd.gradcheck(lambda x: turn(x, table), qkv.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda x: turn(x, table), qkv)


def test_compiled_turn_is_the_eager_one():
    """The compiler is given real numbers only, and no part of the step outside of its graph."""
    qkv, table = qkv_and_table("tiled")
    leaves = [qkv.float().requires_grad_() for _ in range(2)]
    for leaf, way in zip(leaves, (turn, torch.compile(turn, fullgraph=True, backend="aot_eager")), strict=True):
        sum((part.square() * weight).sum() for part, weight in zip(way(leaf, table), (1, 2, 3), strict=True)).backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_channels_beyond_three_axes_do_not_turn():
    x = torch.randn(1, 1, 1, 32)
    turned = apply_rope(x, rope_table(torch.tensor([[[5, 6, 7]]]), 32, "interleaved"))
    assert torch.equal(turned[..., 30:], x[..., 30:])
    assert not torch.equal(turned[..., :30], x[..., :30])


def test_positions_of_ids():
    assert positions(torch.tensor([[777]]), (8, 16, 16)).tolist() == [[[3, 0, 9]]]
    assert positions(torch.tensor([[777]]), (8, 24, 24)).tolist() == [[[1, 8, 9]]]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("layout", ["interleaved", "tiled"])
@pytest.mark.parametrize("head_dim", [8, 32, 64, 80, 88, 104])
def test_every_channel_turns_as_defined(head_dim, layout, bf16):
    """Channel by channel, from the definition: axis, frequency and partner of each."""
    rng = torch.Generator().manual_seed(head_dim)
    x = torch.randn(2, 1, 3, head_dim, generator=rng)
    place = torch.randint(0, 24, (2, 3, 3), generator=rng)
    a = 2 * (head_dim // 3 // 2)
    wanted = x.clone()
    for b, k, c in itertools.product(range(2), range(3), range(3 * a)):
        axis, inside = divmod(c, a)
        j = inside % (a // 2) if layout == "tiled" else inside // 2
        exponent = torch.tensor(j / (a // 2)).to(torch.bfloat16 if bf16 else torch.float32).item()
        angle = place[b, k, axis].item() * 10000.0**-exponent
        partner = x[b, 0, k, c ^ 1].item() * (-1 if c % 2 == 0 else 1)
        wanted[b, 0, k, c] = x[b, 0, k, c].item() * math.cos(angle) + partner * math.sin(angle)
    torch.testing.assert_close(apply_rope(x, rope_table(place, head_dim, layout, bf16)), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("head_dim", "error"), [(64, 0.0145), (80, 0.0165)])
def test_rounded_exponents_move_frequencies_as_published(head_dim, error):
    one_step = torch.tensor([[[1, 0, 0]]])
    angles = [torch.atan2(*reversed(rope_table(one_step, head_dim, "tiled", bf16))) for bf16 in (False, True)]
    half = head_dim // 3 // 2
    worst = (angles[1] / angles[0] - 1)[..., :half].abs().max().item()
    assert worst == pytest.approx(error, abs=5e-5)


def test_interpolated_positions_span_the_reference_grid():
    """A 24×8 grid over the reference 16×16: corners meet, the rest lies between; time is as it is."""
    grid = (3, 24, 8)
    plain, stretched = positions(torch.arange(576)[None], grid), positions(torch.arange(576)[None], grid, 16)
    assert stretched[0, -1].tolist() == [2.0, 15.0, 15.0]
    torch.testing.assert_close(stretched, plain * torch.tensor([1, 15 / 23, 15 / 7]))
    same = (2, 16, 16)
    assert torch.equal(positions(torch.arange(512)[None], same, 16), positions(torch.arange(512)[None], same).float())
    assert positions(torch.tensor([[1]]), (2, 1, 1), 16).tolist() == [[[1.0, 0.0, 0.0]]]  # one row has no extent


def test_unknown_layout_is_refused():
    with pytest.raises(ValueError, match="'interleaved' or 'tiled', not 'block'"):
        rope_table(torch.zeros(1, 1, 3), 32, "block")
