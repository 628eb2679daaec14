"""Neighbours are the nearest clips, each of another episode; attention is what the probe itself gathers with."""

import pytest
import torch

from jepa.models.pooler import build_classifier
from jepa.probes.kinds.base import Features
from jepa.probes.suite.attention import attention
from jepa.probes.suite.retrieval import neighbours


def test_neighbours_are_the_nearest_of_each_episode():
    bank = Features(circle(0, 60, 120, 180, 240, 300), torch.tensor([7, 7, 8, 8, 9, 9]))
    assert neighbours(bank, circle(10, 190), 3).tolist() == [[0, 5, 2], [3, 4, 1]]
    assert neighbours(bank, circle(10), 9).shape == (1, 3)  # there are no more episodes


def circle(*degrees: float) -> torch.Tensor:
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack((angle.cos(), angle.sin()), 1)


def test_a_mean_and_a_scale_that_all_share_do_not_matter():
    values = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([1.0, 10, 0.1, 5, 2])
    plain, moved = (
        neighbours(Features(x, torch.arange(20)), x[:4], 6) for x in (values, 300 * torch.ones(5) + scale * values)
    )
    assert torch.equal(plain, moved)


@pytest.mark.parametrize("depth", [1, 2])
def test_attention_is_what_the_probe_gathers_with(depth):
    """With the same values in every head, what is gathered is their sum by these weights."""
    generator = torch.Generator().manual_seed(0)
    model = build_classifier(12, 2, depth, 3, generator).requires_grad_(False)
    cross, query = model.pooler.cross_attention_block, model.pooler.query_tokens
    for weight in (cross.xattn.kv.weight, cross.xattn.q.weight, cross.norm1.weight, query):
        weight.normal_(generator=generator)
    cross.xattn.kv.weight[12:] = cross.xattn.kv.weight[12:16].repeat(3, 1)
    tokens = torch.randn(2, 6, 12, generator=generator)
    found = attention(model, tokens)
    for block in model.pooler.blocks:
        tokens = block(tokens)
    value = cross.xattn.kv(cross.norm1(tokens))[..., 12:16]
    gathered = cross.gather(query[0], tokens)[:, 0].view(2, 3, 4).mean(1)
    torch.testing.assert_close(torch.einsum("bk,bkd->bd", found, value), gathered)
    torch.testing.assert_close(found.sum(1), torch.ones(2))
    assert found.std() > 0.05
