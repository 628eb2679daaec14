"""Activation checkpointing repeats what its mode says, and changes no gradient."""

import dataclasses
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from jepa.models import checkpointing
from jepa.models.checkpointing import MODES
from jepa.models.encoder import EncoderConfig, build_encoder
from jepa.models.predictor import Predictor, PredictorConfig
from jepa.models.rope import Rope

FRAMES = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
KEEP = torch.tensor([[0, 5, 31, 7], [2, 3, 17, 9]])


class Counted(TorchDispatchMode):
    """Counts the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def gradients(config: EncoderConfig) -> dict[str, torch.Tensor]:
    encoder = build_encoder(config, 0)
    encoder(FRAMES, KEEP).square().mul(torch.arange(32)).sum().backward()
    return {name: p.grad for name, p in encoder.named_parameters()}


@pytest.mark.parametrize("changes", [{}, {"swiglu": True, "drop_path": 0.5}])
@pytest.mark.parametrize("mode", ["selective", "full"])
def test_gradients_are_equal_to_the_last_bit(tiny, mode, changes):
    plain = gradients(dataclasses.replace(tiny, **changes))
    again = gradients(dataclasses.replace(tiny, checkpointing=mode, **changes))
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_autocast_with_several_passes_before_the_backward(tiny, mode):
    """As in a step with several masks: weights are cast once for all passes, and again in the second."""
    results = []
    for each in ("none", mode):
        encoder = build_encoder(dataclasses.replace(tiny, checkpointing=each), 0)
        with torch.autocast("cpu", torch.bfloat16):
            outs = [encoder(FRAMES, KEEP), encoder(FRAMES, KEEP + 1 - KEEP % 2)]
        torch.stack(outs).float().square().mul(torch.arange(32)).sum().backward()
        results.append(torch.cat([p.grad.flatten() for p in encoder.parameters()]))
    assert F.cosine_similarity(*results, dim=0) > 0.9999


def test_what_each_mode_repeats(tiny):
    counts = {}
    for mode in MODES:
        with Counted() as counts[mode]:
            gradients(dataclasses.replace(tiny, checkpointing=mode))
    gelu = {mode: counted.counts["gelu"] for mode, counted in counts.items()}
    products = {mode: counted.counts["addmm"] for mode, counted in counts.items()}
    attention = {
        m: sum(n for op, n in c.counts.items() if op.endswith(("attention", "for_cpu"))) for m, c in counts.items()
    }
    assert gelu == {"none": 2, "selective": 4, "full": 4}
    assert products["selective"] == products["none"] < products["full"]
    assert attention == {"none": 2, "selective": 2, "full": 4}


def test_without_gradients_nothing_is_kept(tiny, monkeypatch):
    """`selective` would store the result of every product, for no backward pass to come."""
    monkeypatch.setattr(checkpointing, "checkpoint", lambda *_, **__: pytest.fail("checkpointed"))
    encoder = build_encoder(dataclasses.replace(tiny, checkpointing="selective"), 0)
    with torch.no_grad():
        assert torch.equal(encoder(FRAMES), build_encoder(tiny, 0)(FRAMES))


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_predictor_too(mode):
    gradients, gelus = [], []
    context = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1))
    for each in ("none", mode):
        config = PredictorConfig(width=24, depth=2, heads=2, checkpointing=each)
        predictor = Predictor(config, 8, 1, Rope(), torch.Generator().manual_seed(0))
        with Counted() as counted:
            predictor(context, KEEP, KEEP + 1, (2, 4, 5), 0).square().sum().backward()
        gradients.append({name: p.grad for name, p in predictor.named_parameters()})
        gelus.append(counted.counts["gelu"])
    assert gelus == [2, 4]
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_unknown_mode_is_refused(tiny):
    with pytest.raises(ValueError, match="'none', 'selective' or 'full', not 'some'"):
        build_encoder(dataclasses.replace(tiny, checkpointing="some"), 0)
