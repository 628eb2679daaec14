"""Figures of health: drift of the target, spread of features before any norm hides it, measuring in low precision."""

import importlib

import pytest
import torch

from jepa.config import ConfigError, plugin_names
from jepa.data.clip import Clip
from jepa.data.transforms import normalize
from jepa.health import OnlineProbeConfig, ema_drift, measure
from jepa.masks import multiblock
from jepa.models.encoder import build_encoder
from jepa.models.predictor import PredictorConfig
from jepa.objectives.base import feature_std


def objective_of(name, tiny, **config):
    module = importlib.import_module(f"jepa.objectives.{name}")
    parts = build_encoder(tiny, 0), PredictorConfig(24, 1, 2), multiblock.build(multiblock.Config(), 0)
    return module.build(module.Config(**config), *parts, torch.Generator().manual_seed(0))


def clip_of(rows=3):
    frames = torch.randint(0, 256, (rows, 4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    ids = torch.arange(rows)
    return Clip(frames, ids, torch.zeros_like(ids), 0, torch.ones(rows, 4, dtype=torch.bool))


def test_drift_is_the_distance_of_all_weights_over_their_size(tiny):
    objective = objective_of("vjepa2", tiny)
    assert ema_drift(objective, torch.device("cpu")) == 0
    with torch.no_grad():
        for parameter in objective.encoder.parameters():
            parameter.mul_(2.0)
    assert ema_drift(objective, torch.device("cpu")) == pytest.approx(0.5)
    with torch.no_grad():
        for parameter in objective.target_encoder.parameters():
            parameter.zero_()
    assert ema_drift(objective, torch.device("cpu")) == pytest.approx(1.0)
    assert ema_drift(objective_of("lejepa", tiny), torch.device("cpu")) == 0  # it has no target


@pytest.mark.parametrize("name", plugin_names("jepa.objectives"))
def test_every_objective_tells_the_spread_of_its_targets_before_a_norm_hides_it(name, tiny):
    objective, clip = objective_of(name, tiny), clip_of()
    with torch.no_grad():
        raw = objective.target_encoder(normalize(clip.frames))
        before = objective(clip)[1]["feature_std"]
        slow = torch.stack([channel.flatten().std(correction=0) for channel in raw.unbind(-1)]).mean()
        torch.testing.assert_close(before, slow)
        for parameter in (objective.target_encoder.norm.weight, objective.target_encoder.norm.bias):
            parameter.mul_(1e-3)
        torch.testing.assert_close(objective(clip)[1]["feature_std"], before * 1e-3)


def test_spread_is_zero_where_all_tokens_are_alike_whatever_they_are():
    alike = torch.randn(8, generator=torch.Generator().manual_seed(0)).expand(3, 5, 8)
    assert feature_std(alike) < 1e-6
    assert feature_std(alike.bfloat16()).dtype == torch.float32


def test_an_encoder_in_low_precision_is_measured_in_it(tiny):
    encoder, clips = build_encoder(tiny, 0), [clip_of(4)]
    full, low = measure(encoder, clips), measure(encoder.bfloat16(), clips)
    assert low == pytest.approx(full, rel=0.1) and low != full


@pytest.mark.parametrize("name", ["per_episode", "clips", "every"])
def test_a_probe_of_nothing_is_refused(name):
    with pytest.raises(ConfigError, match=f"probe.{name} 0: must be at least 1"):
        OnlineProbeConfig(**{name: 0})
