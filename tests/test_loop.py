"""The loop's settings: refusals in one line, warnings, schedules in the log, precision that leaves weights fp32."""

import shutil
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from jepa.config import ConfigError
from jepa.logs import read
from jepa.loop import train
from jepa.optim import OptimConfig
from jepa.training import LoopConfig, make_accelerator
from jepa.worlds.base import Sequence


class Product(nn.Module):
    """A loss with a matrix product, which autocast turns to low precision; keeps the product's type."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.seen: list[torch.dtype] = []
        self.ends: list[int] = []

    def forward(self, batch):
        out = self.layer(batch.tokens)
        self.seen.append(out.dtype)
        return out.float().square().mean(), {}

    def after_step(self, step, total):
        self.ends.append(total)


def run(out, config, moments=None, model=None, scale=1.0, scaler=None):
    """Train a `Product` on a constant; the model and the log."""
    model = model or Product()
    ones = torch.full((2, 4), scale)
    accelerator = make_accelerator(str(out), replace(config, threads=1))
    accelerator.scaler = scaler

    def batches(done):
        return [Sequence(ones, ones, ones)] * (config.steps - done)

    train("test", model, batches, lambda step: {}, accelerator, config, out, moments=moments)
    return model, read(out / "log.jsonl")


@pytest.fixture
def new_accelerator():
    """accelerate keeps one precision for a process, and ours has many runs."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="'fp8' is not one of fp32, bf16, fp16"):
        LoopConfig(precision="fp8")
    with pytest.raises(ConfigError, match=r"loop\.accumulate 0"):
        LoopConfig(accumulate=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        make_accelerator(str(tmp_path), LoopConfig(precision="fp16"))


@pytest.mark.parametrize(("precision", "product"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_products_and_not_of_weights(
    tmp_path, new_accelerator, monkeypatch, capsys, precision, product
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # a launcher's choice
    model, _ = run(tmp_path, LoopConfig(steps=2, precision=precision))
    assert set(model.seen) == {product}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert ("no bf16 instructions" in capsys.readouterr().err) == (precision == "bf16")


def test_the_log_has_the_schedule_and_a_run_that_never_leaves_its_warm_up_is_told(tmp_path, capsys):
    optim = OptimConfig("linear", lr=1e-3, final_lr=0.0, stretch=2.0)
    model, log = run(tmp_path / "a", LoopConfig(steps=4, optim=optim))
    assert [r["lr"] for r in log[1:]] == pytest.approx([1e-3 * (8 - s) / 8 for s in (1, 2, 3, 4)])
    assert model.ends == [8] * 4  # momentum is laid out for as long as the rate is
    assert "warm-up" not in capsys.readouterr().err
    run(tmp_path / "b", LoopConfig(steps=4, optim=OptimConfig(warmup=4)))
    assert "4 steps end inside the warm-up of 4" in capsys.readouterr().err


def test_a_fresh_run_begins_with_the_moments_that_it_is_given_and_a_resumed_one_does_not(tmp_path):
    config = LoopConfig(steps=1, optim=OptimConfig(lr=1e-2, weight_decay=0.0))

    def given():
        parts = {"exp_avg": 100.0, "exp_avg_sq": 0.0}
        shapes = {"layer.weight": (4, 4), "layer.bias": (4,)}
        full = {(name, key): torch.full(shape, v) for name, shape in shapes.items() for key, v in parts.items()}
        full |= {(name, "step"): torch.tensor(1e6) for name in shapes}
        return {f"optimizer/{name}/{key}": value for (name, key), value in full.items()}.get

    model = Product()
    before = model.layer.bias.detach().clone()
    run(tmp_path / "a", config, given(), model)
    assert (before - model.layer.bias).min() > 1  # a large first moment moves it far
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    further = replace(config, steps=2)
    with_moments, _ = run(tmp_path / "a", further, given())
    without, _ = run(tmp_path / "b", further)
    assert torch.equal(with_moments.layer.weight, without.layer.weight)


def test_momentum_waits_where_fp16_left_an_update_out(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    model, log = run(tmp_path, LoopConfig(steps=2), scale=1e3, scaler=scaler)
    assert model.ends == [] and len(log) == 3
    assert scaler.get_scale() == 2.0**124
