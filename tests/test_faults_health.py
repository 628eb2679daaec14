"""Faults of the numbers: a spike of the loss is noticed and can be left out (N3), a collapse is noticed (N4)."""

import importlib

import pytest
import torch
from torch import nn

from jepa.alarms import AlarmConfig, Alarms, is_spike
from jepa.data.clip import Clip
from jepa.masks import multiblock
from jepa.models.encoder import EncoderConfig, build_encoder
from jepa.models.predictor import PredictorConfig
from jepa.optim import OptimConfig, build_adamw

CONFIG = AlarmConfig(window=40)
START = 25
"""Step at which a fault begins."""


class Run:
    """A pre-training of tiny size on clips of noise, its alarms, and what may happen to it before a step."""

    def __init__(self, name: str = "vjepa2", lr: float = 1e-4, **config) -> None:
        encoder = build_encoder(EncoderConfig(size=16, patch=4, tubelet=2, width=24, depth=1, heads=2), 0)
        module = importlib.import_module(f"jepa.objectives.{name}")
        parts = PredictorConfig(12, 1, 1), multiblock.build(multiblock.Config(), 0), torch.Generator().manual_seed(0)
        self.objective = module.build(module.Config(**config), encoder, *parts)
        named = [(n, p) for n, p in self.objective.named_parameters() if p.requires_grad]
        self.optimizer = build_adamw(named, OptimConfig(lr=lr))
        self.alarms, self.losses, self.left_out = Alarms(CONFIG), [], []

    def steps(self, first: int, last: int, scale: float = 1.0, skip_spikes: bool = False) -> list[tuple[str, int]]:
        """Steps `first` to `last` with `scale` times the loss; the (kind, step) of their alarms."""
        found = []
        for step in range(first, last + 1):
            loss, metrics = self.objective(noise(step))
            (loss * scale).backward()
            record = {"loss": loss.item() * scale, **{name: value.item() for name, value in metrics.items()}}
            found += [(alarm.kind, alarm.step) for alarm in self.alarms.look(step, record)]
            if skip_spikes and is_spike(self.losses[-CONFIG.window :], record["loss"], CONFIG):
                self.left_out.append(step)
            else:
                self.optimizer.step()
                self.objective.after_step(step, 1000)
            self.optimizer.zero_grad()
            self.losses.append(record["loss"])
        return found


def noise(step: int) -> Clip:
    rng = torch.Generator().manual_seed(step)
    frames = torch.randint(0, 256, (4, 4, 3, 16, 16), generator=rng, dtype=torch.uint8)
    ids = torch.arange(4) + 4 * step
    return Clip(frames, ids, torch.zeros_like(ids), step, torch.ones(4, 4, dtype=torch.bool))


def weights(run: Run) -> list[torch.Tensor]:
    return [value.detach().clone() for value in run.objective.state_dict().values()]


@pytest.mark.fault("N3")
def test_N3_a_loss_spike_sets_off_an_alarm():
    run = Run()
    assert run.steps(1, START - 1) == []
    assert run.steps(START, START, scale=3.0) == [("spike", START)]
    assert run.steps(START + 1, START + 10) == []


@pytest.mark.fault("N3")
def test_N3_a_spike_that_is_left_out_touches_neither_encoder_nor_average():
    run = Run()
    run.steps(1, START - 1, skip_spikes=True)
    before = weights(run)
    run.steps(START, START, scale=3.0, skip_spikes=True)
    assert run.left_out == [START] and all(map(torch.equal, before, weights(run)))
    run.steps(START + 1, START + 1, skip_spikes=True)
    assert run.left_out == [START] and not all(map(torch.equal, before, weights(run)))


def make_constant(run: Run) -> None:
    """Encoders of which the output no longer depends on what they see: their last norm forgets its input."""
    for encoder in (run.objective.encoder, run.objective.target_encoder):
        nn.init.zeros_(encoder.norm.weight)


def first_alarm(run: Run, first: int) -> tuple[str, int]:
    """The first of the alarms of 50 steps."""
    return next(found[0] for step in range(first, first + 50) if (found := run.steps(step, step)))


@pytest.mark.fault("N4")
@pytest.mark.parametrize("name", ["vjepa2", "vjepa2_1", "lejepa"])
def test_N4_a_constant_encoder_is_noticed_within_50_steps(name):
    run = Run(name)
    assert run.steps(1, START - 1) == []
    make_constant(run)
    assert first_alarm(run, START)[0] == "collapse"


@pytest.mark.fault("N4")
def test_N4_a_collapse_of_training_itself_is_noticed_and_a_run_that_is_held_open_is_not():
    """Without SIGReg the best prediction is that of features that are all the same."""
    fallen = Run("lejepa", lr=3e-3, sigreg_weight=0.0)
    kind, step = first_alarm(fallen, 1)
    assert kind == "collapse" and fallen.losses[-1] < 0.5 * fallen.losses[0]
    assert Run("lejepa", lr=3e-3, sigreg_weight=0.2, projections=32).steps(1, step + 10) == []
