"""Faults R1-R3, N1 and N2 on whole runs of one process: kills, resumes at every edge, losses that are not finite."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from jepa import checkpoint
from jepa.config import load_config
from jepa.logs import read
from jepa.objectives.vjepa2 import VJEPA2
from jepa.pretrain import PretrainConfig, run

STEPS = ("loop.steps=24", "loop.checkpoint_every=5", "loop.measure_every=12")


@pytest.fixture
def config_of(moving_square, tiny_pretrain):
    def make(out, *more):
        values = [f"out={out}", f"data.shards={moving_square}", f"heldout={moving_square}", *tiny_pretrain, *STEPS]
        return load_config(PretrainConfig, "pretrain", "debug", [*values, *more])

    return make


@pytest.fixture
def seen(monkeypatch):
    """The sample ids of every batch that was given out, by step."""
    taken = {}
    batch = VJEPA2.forward

    def forward(self, clip):
        taken.setdefault(clip.step + 1, []).append(tuple(clip.sample_id.tolist()))
        return batch(self, clip)

    monkeypatch.setattr(VJEPA2, "forward", forward)
    return taken


def losses(out):
    return {r["step"]: r["loss"] for r in read(out / "log.jsonl") if "loss" in r}


def weights(out):
    return checkpoint.read_model(out)[1]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def kill_once(out, config, after):
    """Start the run in a process of its own and kill it once `after` steps more are logged."""
    values = [f"out={out}", f"data.shards={config.data.shards}", f"heldout={config.heldout}"]
    command = [sys.executable, "-c", PROGRAM, *values]
    known = len(losses(out))
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(losses(out)) < known + after and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


PROGRAM = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from conftest import TINY_PRETRAIN
from jepa.config import load_config
from jepa.pretrain import PretrainConfig, run
run(load_config(PretrainConfig, "pretrain", "debug", [*sys.argv[1:], *TINY_PRETRAIN, *{STEPS!r}]))
"""


def check_R1(tmp_path, config_of, kills):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(config_of(whole))
    for _ in range(kills):
        if len(losses(killed)) == 24:
            break
        kill_once(killed, config_of(killed), after=1 + os.urandom(1)[0] % 8)
    run(config_of(killed))
    assert losses(killed) == losses(whole)
    assert same(weights(killed), weights(whole))


@pytest.mark.fault("R1")
def test_R1_a_run_killed_twice_ends_as_one_that_was_not(tmp_path, config_of):
    check_R1(tmp_path, config_of, kills=2)


@pytest.mark.fault("R1")
@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(20))
def test_R1_a_run_killed_at_any_step_ends_as_one_that_was_not(tmp_path, config_of, attempt):
    check_R1(tmp_path, config_of, kills=1)


@pytest.mark.fault("R2", "R3")
@pytest.mark.parametrize("stop", [3, 6, 12, 24])  # an epoch of six clips is three steps
def test_R2_R3_resume_at_the_edges_of_epochs_and_at_the_end_repeats_and_misses_nothing(
    tmp_path, config_of, seen, monkeypatch, stop
):
    run(config_of(tmp_path / "whole"))
    uninterrupted = {step: ids[0] for step, ids in seen.items()}
    assert len({uninterrupted[step] for step in (1, 4, 7, 10)}) > 1  # epochs differ in their order
    seen.clear()

    every = f"loop.checkpoint_every={stop}"
    with monkeypatch.context() as patch:
        patch.setattr("jepa.pretrain.listed", lambda feed, path, done: cut_after(feed, stop))
        if stop == 24:
            run(config_of(tmp_path / "cut", every))
        else:
            with pytest.raises(KeyboardInterrupt):
                run(config_of(tmp_path / "cut", every))
    run(config_of(tmp_path / "cut", every))
    assert seen == {step: [ids] for step, ids in uninterrupted.items()}  # each batch once
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def cut_after(feed, step):
    for clip in feed:
        if clip.step == step:  # that of the batch after it: batches count from 0
            raise KeyboardInterrupt
        yield clip


def poison(monkeypatch, steps, what="loss"):
    """Make loss or gradient of these steps NaN."""
    forward = VJEPA2.forward

    def poisoned(self, clip):
        loss, metrics = forward(self, clip)
        if clip.step + 1 in steps:
            weight = next(self.encoder.parameters())
            # 0 · sqrt'(0) is NaN: the loss stays as it is, the gradient does not
            loss = loss * math.nan if what == "loss" else loss + 0 * (weight - weight.detach()).abs().sqrt().sum()
        return loss, metrics

    monkeypatch.setattr(VJEPA2, "forward", poisoned)


@pytest.mark.fault("N1")
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_N1_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path, config_of, monkeypatch, what):
    every = ("loop.steps=6", "loop.checkpoint_every=1", "loop.keep=9")
    with monkeypatch.context() as patch:
        poison(patch, {4}, what)
        run(config_of(tmp_path, *every))
    log = {r["step"]: r for r in read(tmp_path / "log.jsonl")}
    assert [step for step, r in log.items() if r.get("nonfinite")] == [4]
    assert not (tmp_path / "checkpoints" / "step_00000004").exists()  # nothing to come back to, to be sure
    alarms = read(tmp_path / "alarms.jsonl")
    assert [(a["kind"], a["step"]) for a in alarms] == [("nonfinite", 4)]
    # Step 5 goes on from what step 3 has left: AdamW has counted four updates by then.
    read_3, read_5 = (checkpoint.reader(tmp_path / "checkpoints" / f"step_{n:08d}") for n in (3, 5))
    name = "optimizer/encoder.norm.weight/step"
    assert (read_3(name), read_5(name)) == (3, 4)


@pytest.mark.fault("N2")
def test_N2_after_three_steps_in_a_row_the_run_goes_back_and_past_them(tmp_path, config_of, monkeypatch):
    poison(monkeypatch, {12, 13, 14})
    run(config_of(tmp_path / "a"))
    log = {r["step"]: r for r in read(tmp_path / "a" / "log.jsonl")}
    assert [step for step, r in log.items() if r.get("passed_over")] == [11, 12, 13, 14]
    assert sorted(losses(tmp_path / "a")) == [*range(1, 11), *range(15, 25)]
    alarms = [a for a in read(tmp_path / "a" / "alarms.jsonl") if "back to" in a["text"]]
    assert [(a["step"], a["text"]) for a in alarms] == [
        (
            10,
            "loss or gradient was not finite at steps 12 to 14: back to the checkpoint of step 10, and past the data "
            "of steps 11 to 14",
        )
    ]


@pytest.mark.fault("N2")
def test_N2_a_run_that_is_cut_before_within_and_after_what_it_passes_over_ends_as_one_that_was_not(
    tmp_path, config_of, monkeypatch
):
    more = ("loop.checkpoint_every=3", "encoder.drop_path=0.3")  # drop path counts the steps that were taken
    poison(monkeypatch, {17, 18, 19})
    run(config_of(tmp_path / "a", *more))
    passed = [r["step"] for r in read(tmp_path / "a" / "log.jsonl") if r.get("passed_over")]
    assert passed == [16, 17, 18, 19]  # and a checkpoint is written at 18
    forward, cut_at = VJEPA2.forward, {18, 20, 23}

    def cut(self, clip):
        if clip.step + 1 in cut_at:
            cut_at.remove(clip.step + 1)
            raise KeyboardInterrupt
        return forward(self, clip)

    monkeypatch.setattr(VJEPA2, "forward", cut)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(config_of(tmp_path / "b", *more))
    run(config_of(tmp_path / "b", *more))
    assert losses(tmp_path / "b") == losses(tmp_path / "a")
    assert same(weights(tmp_path / "b"), weights(tmp_path / "a"))


@pytest.mark.fault("N2")
def test_N2_where_going_back_does_not_help_the_run_ends_in_one_line(tmp_path, config_of, monkeypatch):
    poison(monkeypatch, set(range(8, 25)))
    with pytest.raises(FloatingPointError, match="and going back 3 times did not help; lower loop"):
        run(config_of(tmp_path))


@pytest.mark.fault("N3")
def test_N3_a_spike_that_is_to_be_left_out_changes_nothing(tmp_path, config_of, monkeypatch):
    forward = VJEPA2.forward

    def spiking(self, clip):
        loss, metrics = forward(self, clip)
        return loss * (50 if clip.step == 15 else 1), metrics

    monkeypatch.setattr(VJEPA2, "forward", spiking)
    more = ("loop.skip_spikes=true", "loop.alarms.window=20", "loop.checkpoint_every=8")
    run(config_of(tmp_path, *more))
    log = {r["step"]: r for r in read(tmp_path / "log.jsonl")}
    assert [step for step, r in log.items() if r.get("spike")] == [16]
    assert checkpoint.reader(tmp_path / "checkpoints" / "step_00000024")("optimizer/encoder.norm.weight/step") == 23
