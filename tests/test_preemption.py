"""Signals only ask: the step and its checkpoint are finished first; a second Ctrl-C alone ends a process at once."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jepa.preemption import PREEMPTED, SIGNALS, Preempted, Preemption

SCRIPT = """
import os, sys, time
from pathlib import Path
from jepa.preemption import Preempted, Preemption

folder = Path(sys.argv[1])
try:
    with Preemption() as preemption:
        (folder / "ready").touch()
        while not preemption.requested:
            time.sleep(0.01)
        (folder / "saving").touch()
        with (folder / "partial").open("w") as file:
            for _ in range(100):
                file.write("x")
                file.flush()
                time.sleep(0.01)
        (folder / "partial").rename(folder / "checkpoint")
        raise Preempted(7)
except Preempted as stop:
    print(f"jepa: {stop}", file=sys.stderr)
    sys.exit(stop.exit_code)
"""


def stopped(folder, *signals):
    """Exit code and stderr of a run that gets the first signal in its loop and the others while it saves, slowly."""
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, folder], stderr=subprocess.PIPE, text=True)
    for number, wanted in zip(signals, ["ready", *["saving"] * len(signals)], strict=False):
        deadline = time.monotonic() + 30
        while not (folder / wanted).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_after_the_checkpoint_with_the_documented_code(tmp_path, number):
    code, errors = stopped(tmp_path / "run", number)
    assert code == PREEMPTED == 75
    assert (tmp_path / "run" / "checkpoint").read_text() == "x" * 100
    assert "stopped at step 7" in errors
    assert ("Ctrl-C again stops at once" in errors) == (number == signal.SIGINT)


def test_more_signals_while_the_checkpoint_is_written_change_nothing(tmp_path):
    code, _ = stopped(tmp_path / "run", signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    assert code == PREEMPTED
    assert (tmp_path / "run" / "checkpoint").read_text() == "x" * 100


def test_a_second_ctrl_c_stops_at_once_and_leaves_no_half_checkpoint(tmp_path):
    code, _ = stopped(tmp_path / "run", signal.SIGINT, signal.SIGINT)
    assert code == -signal.SIGINT
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_handlers_are_restored_also_after_an_error():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Preempted, match="stopped at step 3"), Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.requested
        raise Preempted(3)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_data_worker_that_is_forked_meanwhile_asks_for_nothing(capfd):
    with Preemption() as preemption:
        if not (child := os.fork()):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(preemption.requested)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0 and not capfd.readouterr().err


def test_outside_the_main_thread_nothing_is_caught():
    before, entered = [signal.getsignal(number) for number in SIGNALS], []

    def enter():
        with Preemption() as preemption:
            entered.append((preemption.requested, [signal.getsignal(number) for number in SIGNALS]))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [(False, before)]
