"""The demo's stages: valid commands whose folders link up, done ones skipped, failures kept out of the ledger."""

import inspect
import json
import sys
from pathlib import Path

import pytest
import typer

from jepa import demo
from jepa.cli import app, collect
from jepa.config import ConfigError, load_config, preset_names
from jepa.demo import DemoConfig, Stage, stages
from jepa.planning import manifest
from jepa.planning.bench.config import PlanConfig
from jepa.posttrain import PosttrainConfig
from jepa.pretrain import PretrainConfig
from jepa.probes.run import ProbeConfig

SCHEMAS = {"pretrain": PretrainConfig, "probe": ProbeConfig, "posttrain": PosttrainConfig, "plan": PlanConfig}


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """The names of the stages that were run; none of them does anything."""
    names: list[str] = []
    monkeypatch.setattr(demo, "_run_side_by_side", lambda stage: names.append(stage.name))
    return names


def verb_of(command: tuple[str, ...]) -> tuple[str, list[str]]:
    """What stands after `python -m jepa` or `accelerate launch … -m jepa`."""
    verb, *arguments = command[command.index("jepa") + 1 :]
    return verb, arguments


@pytest.mark.parametrize("preset", preset_names("demo"))
def test_every_command_parses(preset, tmp_path):
    verbs = typer.main.get_command(app).commands
    made, read = set(), set()
    for stage in stages(tmp_path, load_config(DemoConfig, "demo", preset)):
        for command in stage.commands:
            verb, arguments = verb_of(command)
            short = {"probe": "run", "plan": "bench"}  # the verb that may be left out
            of = verbs[verb].commands[short[verb]] if verb in short else verbs[verb]
            parsed = of.make_context(verb, list(arguments)).params  # fails on an option that is not there
            if verb not in SCHEMAS:
                made |= {parsed["out"]} if "out" in parsed else set()
                continue
            config = load_config(SCHEMAS[verb], verb, parsed["preset"], parsed["overrides"])
            made.add(Path(config.out))
            given = dict(o.split("=", 1) for o in parsed["overrides"])
            read |= {Path(v) for k, v in given.items() if k != "out" and v.startswith(str(tmp_path))}
            assert read <= made, f"{verb} reads what no stage before it makes: {read - made}"
    parts = {"pretrain", "probe", "posttrain", "posttrain_random", "plan"}  # where the report looks
    assert {tmp_path / part for part in parts} <= made


def test_what_is_done_is_skipped_but_the_report_is_written_again(tmp_path, ran):
    demo.run(tmp_path, "debug")
    everything = [stage.name for stage in stages(tmp_path, load_config(DemoConfig, "demo", "debug"))]
    assert ran == everything == list(json.loads((tmp_path / "stages.json").read_text()))
    ran.clear()
    demo.run(tmp_path, "debug")
    assert ran == ["report"]


def test_a_failing_stage_stops_the_demo_and_is_not_done(tmp_path, monkeypatch):
    def commands(out, config):
        good, bad = (tuple([sys.executable, "-c", f"raise SystemExit({code})"]) for code in (0, 3))
        return [Stage("good", (good,)), Stage("bad", (good, bad)), Stage("never", (good,))]

    monkeypatch.setattr(demo, "stages", commands)
    with pytest.raises(SystemExit) as ended:
        demo.run(tmp_path, "debug")
    assert ended.value.code == 3
    assert list(json.loads((tmp_path / "stages.json").read_text())) == ["good"]


def test_a_folder_belongs_to_one_preset_and_config(tmp_path, ran):
    demo.run(tmp_path, "debug")
    told = json.loads((tmp_path / "demo.json").read_text())
    assert told["preset"] == "debug" and DemoConfig(**told["config"]) == load_config(DemoConfig, "demo", "debug")
    ran.clear()
    with pytest.raises(ConfigError, match=r"begun with preset debug, not demo; name another folder"):
        demo.run(tmp_path, "demo")
    told["config"]["collect_train"] += 1
    (tmp_path / "demo.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=r"another config \(collect_train 13, now 12\)"):
        demo.run(tmp_path, "debug")
    assert not ran


def test_scenes_look_as_those_of_the_shipped_goals():
    looks = manifest.load(PlanConfig.manifest).environment["variation"]
    assert DemoConfig.variation == float(inspect.signature(collect).parameters["variation"].default) == looks
