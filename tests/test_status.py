"""The state that a run leaves behind, and the exit code that goes with it."""

import json
import sys

import pytest

from jepa.checkpoint import CheckpointError
from jepa.config import ConfigError
from jepa.preemption import PREEMPTED, Preempted
from jepa.status import Status, exit_code, is_mendable, write_json
from jepa.watchdog import LOST, LostRank


def status(run):
    return json.loads((run / "status.json").read_text())


def test_a_run_is_running_and_then_done(tmp_path):
    with Status(tmp_path, 3) as kept:
        assert status(tmp_path) == {"state": "running", "step": 3, "exit_code": None}
        kept.step = 9
    assert status(tmp_path) == {"state": "done", "step": 9, "exit_code": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (Preempted(4), "preempted", PREEMPTED),
        (LostRank("rank 1 is gone", LOST), "failed", LOST),
        (ConfigError("bad"), "failed", 2),
        (CheckpointError("bad"), "failed", 2),
        (OSError(28, "No space left on device", "/full"), "failed", 2),
        (OSError(5, "broken"), "failed", 1),
        (ValueError("of someone else"), "failed", 1),
        (RuntimeError("a fault of ours"), "failed", 1),
        (KeyboardInterrupt(), "failed", 130),
        (SystemExit(3), "failed", 3),
    ],
)
def test_an_error_says_how_it_ended(tmp_path, error, state, code):
    with pytest.raises(type(error)), Status(tmp_path, 4):
        raise error
    assert status(tmp_path) == {"state": state, "step": 4, "exit_code": code}


def test_an_error_that_our_code_raised_is_mendable_whatever_its_class():
    module = type(sys)("jepa.made_up")
    exec("def fail():\n    raise FloatingPointError('step 3: loss nan')", module.__dict__)
    with pytest.raises(FloatingPointError) as caught:
        module.fail()
    assert is_mendable(caught.value) and exit_code(caught.value) == 2
    assert not is_mendable(FloatingPointError("of someone else"))


def test_a_small_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    reader = path.open()  # has the old one, whatever comes
    write_json(path, {"a": 2})
    assert json.load(reader) == {"a": 1} and json.loads(path.read_text()) == {"a": 2}
