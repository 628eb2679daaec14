"""Pairs of processes of which one is killed, stopped, stalls or fails: the other ends soon and says which, and why."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from jepa.preemption import Preempted
from jepa.watchdog import LOST, Watchdog

SCRIPT = """
import datetime, json, os, signal, sys, time, traceback
from pathlib import Path
import torch, torch.distributed as dist
from jepa.watchdog import LostRank, Watchdog

def train(run, fault, rank):
    store = f"file://{run}/store"
    dist.init_process_group("gloo", store, rank=rank, world_size=2, timeout=datetime.timedelta(seconds=50))
    dist.barrier()
    with Watchdog(run, rank, 2, timeout=5.0) as watchdog:
        for step in range(1, 31):
            watchdog.beat(step)
            if step == 20 and rank == 1:
                if fault == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if fault == "stop":
                    os.kill(os.getpid(), signal.SIGSTOP)
                if fault == "stall":
                    time.sleep(100)
                if fault == "error":
                    raise ValueError("no such thing")
            watchdog.beat(step)
            dist.all_reduce(torch.ones(4))
            time.sleep(0.1)

def process(run, fault, rank):
    os.dup2(os.open(run / f"{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
    try:
        train(run, fault, rank)
    except LostRank as error:
        print(f"jepa: {error}", file=sys.stderr, flush=True)
        os._exit(error.exit_code)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

# Forks of one process, for ten imports of torch take half a minute; all pairs at once, for mostly they wait.
running, codes = {}, {}
for fault in sys.argv[2:]:
    run = Path(sys.argv[1]) / fault
    run.mkdir()
    for rank in (0, 1):
        if not (child := os.fork()):
            process(run, fault, rank)
        running[child] = f"{fault} {rank}"
end = time.monotonic() + 40
while set(running.values()) - {"stop 1"} and time.monotonic() < end:
    child, status = os.waitpid(-1, os.WNOHANG)
    if child:
        codes[running.pop(child)] = os.waitstatus_to_exitcode(status)
    time.sleep(0.02)
for child in running:
    os.kill(child, signal.SIGKILL)
print(json.dumps(codes))
"""
FAULTS = ("none", "kill", "stop", "stall", "error")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """By fault: exit codes of both processes (None: still there), what they wrote to stderr, and the run's folder."""
    folder = tmp_path_factory.mktemp("watchdog")
    command = [sys.executable, "-c", SCRIPT, folder, *FAULTS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout)
    return {
        fault: (
            [codes.get(f"{fault} {rank}") for rank in (0, 1)],
            [(folder / fault / f"{rank}.err").read_text() for rank in (0, 1)],
            folder / fault,
        )
        for fault in FAULTS
    }


def told(text):
    return [line for line in text.splitlines() if line.startswith("jepa:")]


def test_a_pair_without_fault_ends_well(pairs):
    codes, errors, _ = pairs["none"]
    assert codes == [0, 0] and not told(errors[0] + errors[1])


def test_a_killed_rank_is_named_by_the_collective_that_fails(pairs):
    codes, errors, _ = pairs["kill"]
    assert codes == [LOST, -signal.SIGKILL]
    [line] = told(errors[0])
    assert re.fullmatch(r"jepa: rank 1 \(on .*, last heard at step \d+\): killed, .*; no heartbeat for \d s", line)


def test_a_stopped_rank_is_named_by_the_others_and_the_run_is_marked_failed(pairs):
    codes, errors, folder = pairs["stop"]
    assert codes[0] == LOST
    [line] = told(errors[0])
    assert line.startswith("jepa: rank 1 (on ") and "no heartbeat for" in line
    assert json.loads((folder / "status.json").read_text())["exit_code"] == LOST


def test_a_rank_that_stalls_is_named_by_all_and_shows_where_it_stands(pairs):
    codes, errors, _ = pairs["stall"]
    assert codes == [LOST, LOST]
    lines = [told(text) for text in errors]
    assert all(len(line) == 1 and "jepa: rank 1 (on " in line[0] and "no progress for" in line[0] for line in lines)
    assert "last heard at step 20" in lines[0][0]
    assert ", line 20 in train" in errors[1] and "line 20" not in errors[0]


def test_a_rank_that_fails_is_named_with_its_error(pairs):
    codes, errors, _ = pairs["error"]
    assert codes == [1, 1]  # the code of the one that failed, which is what is to be mended
    [line] = told(errors[0])
    assert "rank 1 (on " in line and line.endswith("left with ValueError: no such thing")


def alone(tmp_path, **arguments):
    return Watchdog(tmp_path, 0, 1, **arguments)


def test_a_process_alone_is_told_of_a_stall_once_and_goes_on(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("jepa.watchdog.BEAT", 0.05)
    with alone(tmp_path, timeout=0.3) as watchdog:
        watchdog.beat(3)
        time.sleep(1.2)
    told_once = capfd.readouterr().err
    assert told_once.count("last heard at step 3): no progress for") == 1
    assert not list(tmp_path.iterdir())  # nobody reads heartbeats of one process


def test_beats_keep_a_process_from_being_taken_for_one_that_stalls(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("jepa.watchdog.BEAT", 0.05)
    with alone(tmp_path, timeout=1.0) as watchdog:
        for _ in range(30):
            watchdog.beat(3)
            time.sleep(0.05)
    assert not capfd.readouterr().err


def test_errors_pass_and_only_those_that_others_lack_are_noted(tmp_path):
    for error, noted in ((Preempted(7), ""), (ValueError("bad\nthing"), "ValueError: bad")):
        with pytest.raises(type(error)), Watchdog(tmp_path, 1, 2, timeout=60.0):
            raise error
        assert json.loads((tmp_path / "heartbeat" / "rank_00001.json").read_text())["left"] == noted
