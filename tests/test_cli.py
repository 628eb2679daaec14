"""The command line as a user meets it: help for every verb, and one line instead of a traceback."""

import os
import subprocess
import sys

import pytest
import torch
import typer
from typer.testing import CliRunner

from jepa import checkpoint, cli
from jepa.config import load_config, to_dict
from jepa.models.encoder import EncoderConfig, build_encoder
from jepa.pretrain import PretrainConfig

VERBS = sorted(typer.main.get_command(cli.app).commands)


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs `jepa …` in this process, where it must fail; returns what it printed to stderr, without progress bars."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["jepa", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code not in (0, None)
        return "".join(line for line in capsys.readouterr().err.splitlines(keepends=True) if "━" not in line)

    return call


def test_help_lists_every_verb():
    result = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert all(verb in result.output for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_explains_its_arguments(verb):
    result = CliRunner().invoke(cli.app, [verb, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for parameter in typer.main.get_command(cli.app).commands[verb].params:
        assert parameter.help, f"{verb}: {parameter.name} has no help"


ONE_LINE = {
    "unknown preset": (["pretrain", "nosuch"], "no pretrain preset 'nosuch'; there are: "),
    "no such file": (["pretrain", "nosuch.yaml"], "no such config file: nosuch.yaml"),
    "unknown key": (["pretrain", "debug", "nosuch.key=1"], "nosuch"),
    "unknown nested key": (["posttrain", "debug", "loop.optim.learning_rate=1"], "learning_rate"),
    "wrong type": (["pretrain", "debug", "batch_size=many"], "batch_size"),
    "not an override": (["plan", "debug", "goals"], "key.sub=value"),
    "unknown plugin": (["pretrain", "debug", "masks.type=nosuch"], "masks.type 'nosuch' is not one of multiblock"),
    "shards not given": (["pretrain", "debug", "out=OUT"], "data.shards=PATH"),
    "missing shards": (["pretrain", "debug", "out=OUT", "data.shards=OUT/nosuch"], "OUT/nosuch"),
    "missing encoder run": (["posttrain", "debug", "out=OUT", "encoder=OUT/nosuch"], "no run at OUT/nosuch"),
    "encoder not given": (["probe", "debug", "shards_train=x", "out=OUT"], "encoder"),
    "probe without a run": (["probe", "debug", "encoder=OUT/no", "shards_train=x", "out=OUT"], "no run at OUT/no"),
    "world not given": (["plan", "debug", "out=OUT"], "world"),
    "missing world run": (["plan", "debug", "out=OUT", "world=OUT/nosuch"], "OUT/nosuch"),
    "missing videos": (["pack", "folder", "OUT/nosuch", "OUT/shards"], "no such folder: 'OUT/nosuch'"),
    "unknown source": (["pack", "nosuch", "OUT", "OUT/shards"], "no source 'nosuch'; there are: collected, csv, droid"),
    "unknown demo": (["demo", "OUT/demo", "--preset", "nosuch"], "no demo preset 'nosuch'"),
    "nothing to report": (["report", "OUT/nosuch"], "OUT/nosuch"),
}


@pytest.mark.parametrize("case", ONE_LINE)
def test_a_mistake_is_one_line(case, refused, tmp_path):
    arguments, message = ONE_LINE[case]
    error = refused(*(a.replace("OUT", str(tmp_path)) for a in arguments))
    assert error.startswith("jepa: ") and error.count("\n") == 1, error
    assert message.replace("OUT", str(tmp_path)) in error


def test_a_run_of_another_config_is_refused(refused, tmp_path, moving_square, tiny_pretrain, save_model):
    given = ["pretrain", "debug", f"out={tmp_path}", f"data.shards={moving_square}", *tiny_pretrain]
    config = load_config(PretrainConfig, "pretrain", "debug", given[2:])
    checkpoint.claim_run(tmp_path, to_dict(config))
    model = torch.nn.Linear(2, 2)
    save_model(tmp_path, model)
    error = refused(*given, "encoder.width=48")
    assert error.count("\n") == 1 and "encoder.width: 32 there, 48 here" in error


def test_a_checkpoint_of_another_shape_is_one_line(refused, tmp_path, moving_square, save_model):
    """The run says width 32, its checkpoint holds width 48."""
    small, large = (EncoderConfig(size=16, patch=4, width=w, depth=1, heads=2) for w in (24, 48))
    config = load_config(PretrainConfig, "pretrain", "debug", [f"out={tmp_path}"])
    checkpoint.claim_run(tmp_path, {**to_dict(config), "encoder": to_dict(small)})
    model = torch.nn.Module()
    model.target_encoder = build_encoder(large, seed=0)
    save_model(tmp_path, model)
    given = [f"out={tmp_path / 'world'}", f"encoder={tmp_path}", f"shards={moving_square}", f"heldout={moving_square}"]
    error = refused("posttrain", "debug", *given)
    assert "is of another shape (48 in the file, 24 wanted)" in error and error.count("\n") == 1


def test_a_wrong_option_says_which(refused, tmp_path):
    assert "--nosuch" in refused("collect", tmp_path, "--nosuch")
    assert "--episodes" in refused("collect", tmp_path, "--episodes", "0")


def test_errors_that_are_not_the_users_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jepa", "report", "somewhere"])
    monkeypatch.setattr(cli, "app", lambda: int("not ours"))
    with pytest.raises(ValueError, match="not ours"):
        cli.main()


def test_under_accelerate_launch_a_mistake_is_our_line_and_no_traceback():
    command = ["-m", "accelerate.commands.accelerate_cli", "launch", "--quiet", "--cpu", "-m", "jepa"]
    ran = subprocess.run(
        [sys.executable, *command, "pretrain", "debug", "nosuch.key=1"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode != 0
    assert "jepa: pretrain/debug: " in ran.stderr and "nosuch" in ran.stderr
    assert "Traceback" not in ran.stderr + ran.stdout
