"""One update: slices give the whole batch's gradient, nothing that is not finite gets through and it is counted."""

from dataclasses import dataclass, field

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from jepa.config import ConfigError
from jepa.data.clip import Clip
from jepa.engines.plain import Plain
from jepa.masks import multiblock
from jepa.models.encoder import build_encoder
from jepa.models.predictor import PredictorConfig
from jepa.objectives import vjepa2
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


def engine_of(model, clip=0.0, scaler=None, optimizer=torch.optim.SGD):
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = scaler
    return Plain(accelerator, model, optimizer(model.parameters(), lr=1.0), clip)


def test_slices_keep_every_row_once_and_what_is_not_a_tensor():
    batch = Numbers(torch.arange(6.0), {"label": torch.arange(12).view(6, 2)})
    parts = slices(batch, 3)
    assert [part.x.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert torch.equal(torch.cat([part.more["label"] for part in parts]), batch.more["label"])
    assert all(part.step == 7 for part in parts)
    assert slices(batch, 1)[0] is batch
    with pytest.raises(ConfigError, match=r"batch of 6 does not divide into loop\.accumulate=4"):
        slices(batch, 4)


def test_slices_give_the_gradient_and_figures_of_the_whole_batch(tiny):
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
        figures.append(update(engine_of(objective), clip, count))
        ends.append(torch.cat([(p - s).flatten() for p, s in zip(objective.parameters(), start, strict=True)]))
    of_whole = ("loss", "lr", "grad_norm", "cosine", "loss_mask0", "loss_mask1")  # a spread over fewer rows is another
    assert ends[0].abs().max() > 0.01
    assert (ends[0] - ends[1]).norm() < 1e-6 * ends[0].norm()
    assert all(figures[0][name] == pytest.approx(figures[1][name], abs=1e-6, rel=1e-6) for name in of_whole)
    assert list(figures[0])[:3] == ["loss", "lr", "grad_norm"]


def test_the_gradient_is_clipped_to_its_norm():
    engine = engine_of(Slope(), clip=0.5)
    figures = update(engine, Numbers(torch.full((2,), 8.0)), 2)
    assert figures["grad_norm"] == 8 and engine.trainable.w.item() == pytest.approx(-0.5, rel=1e-5)
    assert not {"overflow", "nonfinite"} & figures.keys()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_is_updated_where_a_slice_is_not_finite(value):
    engine = engine_of(Slope())
    assert update(engine, Numbers(torch.tensor([1.0, value])), 2)["nonfinite"] == 1
    assert engine.trainable.w.item() == 0
    update(engine, Numbers(torch.tensor([1.0, 1.0])), 2)  # of that gradient nothing is left
    assert engine.trainable.w.item() == -1


def test_an_fp16_gradient_that_overflows_is_left_out_and_the_scale_halved():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    engine = engine_of(Slope(), scaler=scaler, optimizer=lambda p, lr: torch.optim.AdamW(p, lr=lr, fused=True))
    batch = Numbers(torch.full((2,), 4.0))
    figures = update(engine, batch, 1)
    assert figures["grad_norm"] == float("inf") and figures["overflow"] == 1 and "nonfinite" not in figures
    assert engine.trainable.w.item() == 0 and scaler.get_scale() == 2.0**125
    update(engine, batch, 1)
    assert engine.trainable.w.item() == pytest.approx(-1)
    figures = update(engine, Numbers(torch.tensor([float("nan")])), 1)  # no scale mends a loss that is no number
    assert figures["nonfinite"] == 1 and "overflow" not in figures
    assert engine.trainable.w.item() == pytest.approx(-1) and scaler.get_scale() == 2.0**125


@pytest.mark.parametrize("scaler", [None, torch.amp.GradScaler("cpu", init_scale=1.0)])
def test_nothing_is_updated_where_the_gradient_is_not_finite(scaler):
    engine = engine_of(Root(), scaler=scaler)  # a scale that is down to 1 mends nothing
    figures = update(engine, Numbers(torch.ones(2)), 1)
    assert figures["grad_norm"] == float("inf") and figures["nonfinite"] == 1
    assert engine.trainable.w.item() == 0
