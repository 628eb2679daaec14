"""Logs: trackers by name, refused in one line; lines beyond the step that is resumed from are dropped."""

import accelerate.tracking
import pytest
from accelerate.utils import LoggerType

from jepa.config import ConfigError
from jepa.logs import TRACKERS, JsonLines, check_trackers, read


def test_our_trackers_are_those_of_accelerate():
    assert set(TRACKERS) == {str(name) for name in LoggerType} - {"all"}


def test_trackers_are_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType.TENSORBOARD, LoggerType.WANDB])
    check_trackers(())
    check_trackers(("tensorboard", "wandb"))
    with pytest.raises(ConfigError, match=r"'tensorbord' is not one of tensorboard, wandb, .*log\.jsonl is always"):
        check_trackers(("tensorbord",))
    with pytest.raises(ConfigError, match="comet_ml is not installed; run `pip install comet-ml`"):
        check_trackers(("wandb", "comet_ml"))


def test_a_resumed_log_has_no_line_beyond_its_step_and_none_that_is_cut(tmp_path):
    path = tmp_path / "log.jsonl"
    with JsonLines(path, -1) as log:
        for step in range(5):
            log.write({"step": step, "loss": float("nan")})
    path.write_text(path.read_text() + '{"step": 5, "lo')
    with JsonLines(path, 2) as log:
        log.write({"step": 3})
    assert [record["step"] for record in read(path)] == [0, 1, 2, 3]
