"""Presets, overlays and overrides; every mistake is one line."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from jepa.config import ConfigError, from_dict, load_config, plugin, preset_names, to_dict
from jepa.planning.bench.config import PlanConfig
from jepa.pretrain import PretrainConfig


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    steps: int = 1
    inner: Inner = field(default_factory=Inner)
    masks: Any = plugin("jepa.masks", "multiblock")


def write(path, text):
    path.write_text(text)
    return str(path)


def test_base_preset_and_override_in_that_order(tmp_path):
    base = write(tmp_path / "a.yaml", "steps: 5\ninner: {rate: 2.0, names: [x]}\n")
    top = write(tmp_path / "b.yaml", f"base: [{base}]\ninner: {{rate: 3.0}}\n")
    config = load_config(Outer, "pretrain", top, ["steps=7", "masks.long.blocks=4"])
    assert (config.steps, config.inner.rate, list(config.inner.names)) == (7, 3.0, ["x"])
    assert config.masks.long.blocks == 4 and config.masks.short.blocks == 8


def test_round_trip():
    config = load_config(PretrainConfig, "pretrain", "demo", [])
    assert to_dict(from_dict(PretrainConfig, to_dict(config), "here")) == to_dict(config)


def test_configs_in_lists_are_plain_too() -> None:
    given = ["out=a", "data.mix=[{shards: b, weight: 2}, {shards: c, frames: 8}]"]
    config = load_config(PretrainConfig, "pretrain", "demo", given)
    plain = json.loads(json.dumps(to_dict(config)))
    assert plain["data"]["mix"][1] == {"shards": "c", "weight": 1.0, "frames": 8, "fps": None}
    assert from_dict(PretrainConfig, plain, "here") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=2", "stepz"),
        ("inner.rat=2", "rat"),
        ("steps=many", "many"),
        ("masks.type=nosuch", "not one of multiblock"),
        ("masks.short.block=1", "block"),
        ("steps", "key.sub=value"),
    ],
)
def test_mistakes_are_one_line_that_names_them(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(Outer, "pretrain", write(tmp_path / "a.yaml", "steps: 1"), [override])
    assert "\n" not in str(caught.value)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"there are: .*demo"):
        load_config(PretrainConfig, "pretrain", "nosuch", [])


def test_circular_base_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(f"base: [{path}]")
    with pytest.raises(ConfigError, match="its own base"):
        load_config(Outer, "pretrain", str(path), [])


def test_every_shipped_pretrain_preset_is_valid():
    for name in preset_names("pretrain"):
        load_config(PretrainConfig, "pretrain", name, ["out=somewhere"])


def test_another_plugin_takes_nothing_of_the_former_ones_settings() -> None:
    former = load_config(PlanConfig, "plan", "demo", ["world=a", "out=b"])
    same = load_config(PlanConfig, "plan", "demo", ["world=a", "out=b", "planner.type=cem"])
    assert same == former
    with pytest.raises(ConfigError, match=r"planner\.type 'nosuch' is not one of"):  # and not: unknown key
        load_config(PlanConfig, "plan", "demo", ["world=a", "out=b", "planner.type=nosuch"])
    given = ["world=a", "out=b", "planner.type=nosuch", "planner.type=cem", "planner.samples=9"]
    assert load_config(PlanConfig, "plan", "demo", given).planner.samples == 9
