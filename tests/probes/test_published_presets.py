"""The presets of the published protocols say what the reference's configs say."""

from dataclasses import fields

import pytest
from omegaconf import MISSING

from jepa.config import load_config, preset_names
from jepa.probes.published.anticipation import AnticipationConfig
from jepa.probes.published.benchmark_config import BenchmarkConfig

PUBLISHED = {
    "k400": (16, 4, 8, 3, 20, 256, 0, 20),
    "ssv2": (16, 4, 2, 3, 20, 256, 0, 20),
    "coin": (16, 4, 8, 3, 20, 128, 0, 20),
    "diving48": (32, 2, 4, 3, 100, 128, 4, 3),
    "jester": (32, 2, 4, 3, 100, 128, 4, 3),
    "in1k": (16, 4, 1, 1, 20, 1024, 0, 20),
}
"""Frames, frames from one to the next, segments, views, epochs, batch over all GPUs, levels, heads; for ViT-L."""

LARGEST = PUBLISHED | {"ssv2": (64, 2, 2, 3, 20, 256, 0, 20), "in1k": (18, 4, 1, 1, 20, 1024, 0, 20)}
"""The same for ViT-g at 384 px."""

MODELS = {
    "vitl": ("facebook/vjepa2-vitl-fpc64-256", 256, PUBLISHED, (17, 19, 21, 23)),
    "vith": ("facebook/vjepa2-vith-fpc64-256", 256, PUBLISHED, (25, 27, 29, 31)),
    "vitg384": ("facebook/vjepa2-vitg-fpc64-384", 384, LARGEST, (24, 29, 34, 39)),
}
"""Encoder, pixels, protocol, and the levels where there are four."""


def paths(config):
    return [getattr(config.annotations, f.name) for f in fields(config.annotations)]


@pytest.mark.parametrize("data", PUBLISHED)
@pytest.mark.parametrize("model", MODELS)
def test_a_preset_is_the_published_protocol(data, model):
    c = load_config(BenchmarkConfig, "benchmark", f"{data}_{model}")
    encoder, size, published, levels = MODELS[model]
    assert (c.encoder, c.size, c.out) == (encoder, size, f"runs/benchmark/{data}_{model}")
    shown = (c.frames, c.frame_step, c.segments, c.views)
    assert (*shown, c.epochs, c.batch, len(c.levels), len(c.lr) * len(c.weight_decay)) == published[data]
    assert c.levels in ((), levels)
    assert (c.augment, c.hflip, c.warmup) == ("paper", data == "in1k", 5 if data == "in1k" else 0)
    assert MISSING not in paths(c)


@pytest.mark.parametrize("model", MODELS)
def test_anticipation_is_the_published_protocol_but_for_its_anchor(model):
    c = load_config(AnticipationConfig, "anticipation", f"ek100_{model}")
    encoder, size, *_ = MODELS[model]
    assert (c.encoder, c.size, c.out) == (encoder, size, f"runs/benchmark/ek100_{model}")
    assert (c.frames, c.fps, c.ahead, c.ahead_train, c.epochs, c.batch) == (32, 8, 1, (0.25, 1.75), 20, 128)
    assert (len(c.lr) * len(c.weight_decay), c.anchor, c.features) == (20, "start", "both")
    assert MISSING not in paths(c)


def test_there_is_a_preset_for_every_data_set_and_encoder():
    for group, sets in (("benchmark", PUBLISHED), ("anticipation", ["ek100"])):
        assert set(preset_names(group)) == {*sets} | {f"{data}_{model}" for data in sets for model in MODELS}
