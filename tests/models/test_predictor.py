"""The predictor: any clip size, any order of tokens, the encoder's positions."""

import pytest
import torch

from jepa.models.checkpointing import MODES
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.models.rope import Rope


def predictor_of(rope: Rope = Rope(), depth: int = 2) -> Predictor:
    """With loud random parameters, so that attention is not the near average of its initialisation."""
    config = PredictorConfig(width=64, depth=depth, heads=2)
    predictor = Predictor(config, 8, 2, rope, torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=rng)
    return predictor


def context_of(rows: int, tokens: int) -> torch.Tensor:
    return torch.randn(rows, tokens, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("grid", [(2, 4, 4), (1, 3, 7), (5, 6, 2)])
def test_any_length_and_shape(grid):
    ids = torch.randperm(grid[0] * grid[1] * grid[2], generator=torch.Generator().manual_seed(0))
    out = predictor_of()(context_of(1, 5), ids[None, :5], ids[None, 5:], grid, 0)
    assert out.shape == (1, len(ids) - 5, 8)
    assert out.isfinite().all()


def test_the_grid_of_the_clip_says_where_a_token_is():
    """Id 9 is another place on another grid; on a grid that agrees about all ids at hand nothing changes."""
    predictor, context = predictor_of(), context_of(1, 3)
    ids, target = torch.tensor([[0, 1, 2]]), torch.tensor([[9, 11]])
    wide, tall = predictor(context, ids, target, (1, 4, 8), 0), predictor(context, ids, target, (1, 8, 4), 0)
    assert (wide - tall).abs().max() > 1e-2
    assert torch.equal(predictor(context, ids, target, (3, 6, 4), 0), tall)


def test_order_of_tokens_does_not_matter():
    predictor, context, grid = predictor_of(), context_of(2, 6), (2, 4, 4)
    ids = torch.stack([torch.randperm(32, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    kept, masked = ids[:, :6], ids[:, 6:16]
    out = predictor(context, kept, masked, grid, 1)
    turned = predictor(context.flip(1), kept.flip(1), masked.flip(1), grid, 1)
    torch.testing.assert_close(turned.flip(1), out, atol=1e-4, rtol=1e-4)


def test_each_mask_token_is_its_own():
    predictor, context = predictor_of(), context_of(1, 3)
    first, second = (predictor(context, torch.tensor([[0, 1, 2]]), torch.tensor([[5]]), (1, 4, 4), i) for i in (0, 1))
    assert (first - second).abs().max() > 1e-2


@pytest.mark.parametrize("rope", [Rope("tiled"), Rope(reference=16), Rope(bf16=True)])
def test_positions_are_the_encoders(rope):
    """What the encoder says of positions reaches the predictor."""
    ids, context = torch.tensor([[0, 9, 30]]), context_of(1, 3)
    plain, other = (predictor_of(r)(context, ids, torch.tensor([[21, 31]]), (2, 4, 4), 0) for r in (Rope(), rope))
    assert not torch.equal(plain, other)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_it_is_all_blocks_over_all_tokens(mode, depth):
    """Queries go through the start of the first block once, the context through the last one not at all.

    Same predictions and gradients as if all tokens went through all blocks.
    """
    ids = torch.stack([torch.randperm(32, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    results = []
    for slowly in (False, True):
        predictor, context = predictor_of(depth=depth), context_of(2, 6).requires_grad_()
        predictor.checkpointing = mode
        if slowly:
            x = predictor.predictor_embed(context)
            x = torch.cat((x, predictor.mask_tokens[1].expand(2, 10, -1)), dim=1)
            for block in predictor.predictor_blocks:
                x = block(x, predictor.rope.table(ids[:, :16], (2, 4, 4), 32))
            out = predictor.predictor_proj(predictor.predictor_norm(x))[:, 6:]
        else:
            out = predictor(context, ids[:, :6], ids[:, 6:16], (2, 4, 4), 1)
        out.square().sum().backward()
        parameters = [p.grad for n, p in predictor.named_parameters() if n != "mask_tokens.0"]
        results.append([out, context.grad, *parameters])
    for fast, slow in zip(*results, strict=True):
        assert (fast - slow).abs().max() <= 1e-5 * slow.abs().max()


def test_several_at_once_are_each_as_if_alone():
    """Context, ids and mask token of one mask config do not reach the predictions of the other; same gradients."""
    orders = [torch.randperm(32, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    short, long = torch.stack(orders[:2]), torch.stack(orders[2:])
    seen, asked, results = [short[:, :6], long[:, :2]], [short[:, 6:16], long[:, 2:25]], []
    for at_once in (True, False):
        predictor, context = predictor_of(), context_of(2, 8).requires_grad_()
        if at_once:
            out = predictor(context, seen, asked, (2, 4, 4), [1, 0])
        else:
            alone = zip(context.split((6, 2), dim=1), seen, asked, (1, 0), strict=True)
            out = torch.cat([predictor(c, s, a, (2, 4, 4), number) for c, s, a, number in alone], dim=1)
        out.square().sum().backward()
        results.append([out, context.grad, *(p.grad for p in predictor.parameters())])
    assert results[0][0].shape == (2, 33, 8)
    for fast, slow in zip(*results, strict=True):
        assert (fast - slow).abs().max() <= 1e-5 * slow.abs().max()
