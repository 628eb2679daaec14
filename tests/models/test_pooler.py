"""The attentive classifier: names, sizes and the folded attention."""

import math

import pytest
import torch
import torch.nn.functional as F

from jepa.models.pooler import (
    ANTICIPATION_HEADS,
    AnticipationClassifier,
    AttentiveClassifier,
    CrossBlock,
    build_classifier,
)


@pytest.mark.parametrize(("width", "millions"), [(1024, 49.5), (1408, 93.5)])
def test_size_of_the_published_probes(width, millions):
    """Those for the 174 classes of Something-Something v2, head included."""
    with torch.device("meta"):
        model = AttentiveClassifier(width, 174, depth=4, heads=16)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.02)
    assert model(torch.zeros(2, 8, width, device="meta")).shape == (2, 174)


def test_names_are_those_of_the_released_probes():
    with torch.device("meta"):
        state = AttentiveClassifier(32, 5, depth=2, heads=4).state_dict()
    both = ("weight", "bias")
    cross, block = "pooler.cross_attention_block", "pooler.blocks.0"
    parts = [f"{cross}.{n}" for n in ("norm1", "norm2", "xattn.q", "xattn.kv", "mlp.fc1", "mlp.fc2")]
    parts += [f"{block}.{n}" for n in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")]
    assert set(state) == {"pooler.query_tokens"} | {f"{n}.{b}" for n in (*parts, "linear") for b in both}
    assert state["pooler.query_tokens"].shape == (1, 1, 32)
    assert state[f"{cross}.xattn.kv.weight"].shape == (64, 32)
    assert state["linear.weight"].shape == (5, 32)


def test_folded_attention_equals_the_plain_one():
    g = torch.Generator().manual_seed(0)
    block = CrossBlock(32, heads=4)
    with torch.no_grad():
        for p in block.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    queries, x = torch.randn(3, 32, generator=g), torch.randn(2, 7, 32, generator=g)
    q = block.xattn.q(queries).view(3, 4, 8).transpose(0, 1).expand(2, 4, 3, 8)
    k, v = (part.view(2, 7, 4, 8).transpose(1, 2) for part in block.xattn.kv(block.norm1(x)).chunk(2, dim=-1))
    plain = ((q @ k.mT) / math.sqrt(8)).softmax(-1) @ v  # (B, H, Q, d)
    plain = queries + plain.transpose(1, 2).reshape(2, 3, 32)
    plain = plain + block.mlp(block.norm2(plain))
    assert torch.allclose(block(queries, x), plain, atol=1e-5)


def test_every_parameter_that_matters_gets_a_gradient():
    """Only the key bias (the first half of kv's) has none: it does not change a softmax."""
    model = build_classifier(32, 3, 2, 4, torch.Generator().manual_seed(0))
    F.cross_entropy(model(torch.randn(6, 5, 32)), torch.tensor([0, 1, 2] * 2)).backward()
    for name, p in model.named_parameters():
        grad = p.grad[32:] if name.endswith("xattn.kv.bias") else p.grad
        assert grad is not None and grad.abs().sum() > 0, name


def test_initialisation_is_the_generators_alone():
    a, b = (build_classifier(32, 3, 3, 4, torch.Generator().manual_seed(0)) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    first, second = (a.pooler.blocks[i].mlp.fc2.weight.std().item() for i in (0, 1))
    assert first == pytest.approx(0.02 / math.sqrt(2), rel=0.05)
    assert second == pytest.approx(0.02 / 2, rel=0.05)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="divide width 30"):
        build_classifier(30, 3, 1, 4, torch.Generator())


def test_eps_reaches_every_norm():
    for eps in (1e-5, 1e-6):
        model = AttentiveClassifier(32, 3, 3, 4, eps)
        assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {eps}
    x = 1e-3 * torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    model = build_classifier(32, 3, 2, 4, torch.Generator().manual_seed(0))
    before = model(x)
    for part in model.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.eps = 1e-3
    assert not torch.allclose(model(x), before, atol=1e-5)


def test_each_of_three_heads_reads_its_own_query():
    model = AnticipationClassifier(32, (3, 4, 5), 2, 4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    x = torch.randn(2, 7, 32, generator=generator)
    before = model(x)
    assert [tuple(logits.shape) for logits in before] == [(2, 3), (2, 4), (2, 5)]
    assert [model.get_submodule(name).out_features for name in ANTICIPATION_HEADS] == [3, 4, 5]
    with torch.no_grad():
        model.pooler.query_tokens[:, 1] += 1
    assert [torch.equal(a, b) for a, b in zip(before, model(x), strict=True)] == [True, False, True]
