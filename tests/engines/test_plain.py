"""The plain engine in one process: bit for bit a loop written out, and what it saves is what it goes on from."""

import importlib
import importlib.util
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from jepa.checkpoint import CheckpointError
from jepa.config import plugin_names
from jepa.engines.base import agree, mean
from jepa.engines.plain import Plain
from jepa.update import slices, update

spec = importlib.util.spec_from_file_location("parity_run", Path(__file__).with_name("parity_run.py"))
parity = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parity)


def engine_of(trainable, scaler=None):
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = scaler
    return Plain(accelerator, trainable, parity.adamw(trainable), parity.CLIP)


def by_hand(steps, accumulate, left_out=0):
    """A new objective after so many steps written out in torch, and its losses and norms; step `left_out` is none."""
    objective = parity.objective()
    trained = [p for p in objective.parameters() if p.requires_grad]
    adamw, losses, norms = parity.adamw(objective), [], []
    for step in range(1, steps + 1):
        parity.set_schedule(adamw, parity.OPTIM, step, parity.STEPS)
        parts = [objective(part)[0] for part in slices(parity.batch(step), accumulate)]
        for part in parts:
            (part / accumulate).backward()
        losses.append(sum(part.item() for part in parts) / accumulate)
        norms.append(torch.nn.utils.clip_grad_norm_(trained, parity.CLIP).item())
        if step != left_out:
            adamw.step()
            objective.after_step(step, parity.STEPS)
        adamw.zero_grad()
    return objective, losses, norms


def train(engine, first, last, accumulate):
    records = []
    for step in range(first, last + 1):
        parity.set_schedule(engine.optimizer, parity.OPTIM, step, parity.STEPS)
        records.append(update(engine, parity.batch(step), accumulate))
        engine.trainable.after_step(step, parity.STEPS)
    return records


def saved(engine):
    return {name: piece.values.clone().reshape(piece.shape) for name, piece in engine.pieces().items()}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_one_process_is_the_loop_written_out_bit_for_bit(accumulate):
    objective, losses, norms = by_hand(5, accumulate)
    engine = engine_of(parity.objective())
    records = train(engine, 1, 5, accumulate)
    assert [r["loss"] for r in records] == losses and [r["grad_norm"] for r in records] == norms
    state, wanted = engine.trainable.state_dict(), objective.state_dict()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


def test_processes_exchange_gradients_with_the_last_slice_alone(monkeypatch):
    engine = engine_of(parity.objective())
    asked, own = [], engine._accelerator.no_sync
    monkeypatch.setattr(engine._accelerator, "no_sync", lambda model: asked.append(model) or own(model))
    train(engine, 1, 1, 4)
    assert len(asked) == 3


def test_a_new_engine_goes_on_bit_for_bit_from_what_was_saved():
    engine = engine_of(parity.objective(), torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=5))
    train(engine, 1, 3, 1)
    halfway = saved(engine)
    wanted = train(engine, 4, 6, 1), saved(engine)
    other = engine_of(parity.objective(), torch.amp.GradScaler("cpu"))
    other.load(halfway.get)
    other._accelerator.scaler.set_growth_interval(5)
    got = train(other, 4, 6, 1), saved(other)
    assert got[0] == wanted[0] and got[1].keys() == wanted[1].keys()
    assert all(torch.equal(got[1][name], wanted[1][name]) for name in got[1])
    assert got[1]["engine/loss_scale"] == 16 and got[1]["engine/steps_at_scale"] == 1


def test_what_does_not_fit_is_one_line():
    engine = engine_of(parity.objective())
    held = saved(engine)
    with pytest.raises(CheckpointError, match=r"model/encoder\.norm\.bias is missing"):
        engine.load({k: v for k, v in held.items() if k != "model/encoder.norm.bias"}.get)
    with pytest.raises(CheckpointError, match=r"model/encoder\.norm\.bias is \(3,\), the model wants \(32,\)"):
        engine.load((held | {"model/encoder.norm.bias": torch.zeros(3)}).get)


def test_moments_alone_leave_the_weights():
    engine, other = engine_of(parity.objective()), engine_of(parity.objective())
    train(engine, 1, 2, 1)
    before = saved(other)
    other.load_moments(saved(engine).get)
    after, wanted = saved(other), saved(engine)
    assert all(torch.equal(after[n], before[n]) for n in before)
    assert all(torch.equal(after[n], wanted[n]) for n in wanted if n.startswith("optimizer/"))


def test_a_process_alone_agrees_with_itself():
    values = [float("inf"), 0.1]
    assert agree(values, torch.device("meta")) is values  # and sends nothing
    assert mean([0.1, 3.0], torch.device("meta")) == [0.1, 3.0]


@pytest.mark.parametrize("name", plugin_names("jepa.objectives"))
def test_an_objective_says_whether_a_step_leaves_parameters_out(name):
    objective = parity.objective(importlib.import_module(f"jepa.objectives.{name}"))
    objective(parity.batch(1))[0].backward()
    left_out = any(p.requires_grad and p.grad is None for p in objective.parameters())
    assert left_out == objective.unused_parameters
