"""One update: slices give the whole batch's gradient, nothing non-finite gets through, fp16's overflow is left out."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from jepa.config import ConfigError
from jepa.data.clip import Clip
from jepa.masks import multiblock
from jepa.models.encoder import build_encoder
from jepa.models.predictor import PredictorConfig
from jepa.objectives import vjepa2
from jepa.training import make_accelerator
from jepa.update import slices, update


@dataclass(frozen=True)
class Numbers:
    x: Tensor
    more: dict[str, Tensor] = field(default_factory=dict)
    step: int = 7

    def to(self, device):
        return self


class Slope(nn.Module):
    """A loss of which the gradient is the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        loss = (self.w * batch.x).mean()
        return loss, {"mean": batch.x.mean().detach()}


class Root(nn.Module):
    """A loss that is finite, of which the gradient is not."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return self.w.sqrt(), {}


def prepared(tmp_path, model, lr=1.0):
    accelerator = make_accelerator(str(tmp_path), 1)
    return accelerator, *accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=lr))


def test_slices_keep_every_row_once_and_what_is_not_a_tensor():
    batch = Numbers(torch.arange(6.0), {"label": torch.arange(12).view(6, 2)})
    parts = slices(batch, 3)
    assert [part.x.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert torch.equal(torch.cat([part.more["label"] for part in parts]), batch.more["label"])
    assert all(part.step == 7 for part in parts)
    assert slices(batch, 1)[0] is batch
    with pytest.raises(ConfigError, match=r"batch of 6 does not divide into loop\.accumulate=4"):
        slices(batch, 4)


def test_slices_give_the_gradient_and_figures_of_the_whole_batch(tmp_path, tiny):
    rng = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (8, 4, 3, 16, 16), dtype=torch.uint8, generator=rng)
    whole = torch.ones(8, 4, dtype=torch.bool)
    clip = Clip(frames, torch.arange(8), torch.zeros(8, dtype=torch.int64), 3, whole)
    ends, figures = [], []
    for count in (1, 4):
        masks = multiblock.build(multiblock.Config(), 0)
        generator = torch.Generator().manual_seed(1)
        objective = vjepa2.build(vjepa2.Config(), build_encoder(tiny, 0), PredictorConfig(24, 1, 2), masks, generator)
        start = [p.detach().clone() for p in objective.parameters()]
        figures.append(update(*prepared(tmp_path, objective), clip, count, 0.0, 1))
        ends.append(torch.cat([(p - s).flatten() for p, s in zip(objective.parameters(), start, strict=True)]))
    assert ends[0].abs().max() > 0.01
    assert (ends[0] - ends[1]).norm() < 1e-6 * ends[0].norm()
    assert figures[0] == pytest.approx(figures[1], abs=1e-6, rel=1e-6)
    assert list(figures[0])[:3] == ["loss", "lr", "grad_norm"] and "cosine" in figures[0]


def test_processes_exchange_gradients_with_the_last_slice_alone(tmp_path, monkeypatch):
    accelerator, model, optimizer = prepared(tmp_path, Slope())
    asked = []
    own = accelerator.no_sync
    monkeypatch.setattr(accelerator, "no_sync", lambda m: asked.append(m) or own(m))
    update(accelerator, model, optimizer, Numbers(torch.ones(4)), 4, 0.0, 1)
    assert asked == [model] * 3


def test_the_gradient_is_clipped_to_its_norm(tmp_path):
    accelerator, model, optimizer = prepared(tmp_path, Slope())
    figures = update(accelerator, model, optimizer, Numbers(torch.full((2,), 8.0)), 2, 0.5, 1)
    assert figures["grad_norm"] == 8 and model.w.item() == pytest.approx(-0.5, rel=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_is_updated_where_a_slice_is_not_finite(tmp_path, value):
    accelerator, model, optimizer = prepared(tmp_path, Slope())
    with pytest.raises(FloatingPointError, match=r"step 5: .*nothing was updated"):
        update(accelerator, model, optimizer, Numbers(torch.tensor([1.0, value])), 2, 0.0, 5)
    assert model.w.item() == 0


def test_an_fp16_gradient_that_overflows_is_left_out_and_the_scale_halved(tmp_path):
    accelerator = make_accelerator(str(tmp_path), 1)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    slope = Slope()
    model, optimizer = accelerator.prepare(slope, torch.optim.AdamW(slope.parameters(), lr=1.0, fused=True))
    batch = Numbers(torch.full((2,), 4.0))
    assert update(accelerator, model, optimizer, batch, 1, 0.0, 1)["grad_norm"] == float("inf")
    assert model.w.item() == 0 and accelerator.scaler.get_scale() == 2.0**125
    update(accelerator, model, optimizer, batch, 1, 0.0, 2)
    assert model.w.item() == pytest.approx(-1)
    with pytest.raises(FloatingPointError):  # no scale mends a loss that is no number
        update(accelerator, model, optimizer, Numbers(torch.tensor([float("nan")])), 1, 0.0, 3)
    assert model.w.item() == pytest.approx(-1)


@pytest.mark.parametrize("scaler", [None, torch.amp.GradScaler("cpu", init_scale=1.0)])
def test_nothing_is_updated_where_the_gradient_is_not_finite(tmp_path, scaler):
    accelerator, model, optimizer = prepared(tmp_path, Root())
    accelerator.scaler = scaler  # one that is down to 1 mends nothing
    with pytest.raises(FloatingPointError, match="gradient norm inf"):
        update(accelerator, model, optimizer, Numbers(torch.ones(2)), 1, 0.0, 1)
    assert model.w.item() == 0
