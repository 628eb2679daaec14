"""Faults S1-S4 on whole runs of two processes: signals, a process that is killed or stopped, ranks that disagree."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from jepa import checkpoint
from jepa.data.pack import pack
from jepa.logs import read

LOST, PREEMPTED = 76, 75
ENDLESS = ("loop.steps=100000", "loop.checkpoint_every=100000", "loop.timeout=15")
SLOW_DISK = """
import os, sys, time
sync = os.fsync
os.fsync = lambda file: (time.sleep(0.3), sync(file))
from jepa.cli import main
sys.argv[0] = "jepa"
main()
"""


@pytest.fixture
def start(moving_square, tiny_pretrain):
    """Starts runs of pre-training, by torchrun or `python -c script`; ends what lives when the test is over."""
    begun = []

    def begin(out, *more, shards=moving_square, shell="", script=""):
        arguments = ["pretrain", "debug", f"out={out}", f"data.shards={shards}", *tiny_pretrain, *ENDLESS, *more]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
        if shell:  # each process has its own idea of the arguments
            command = " ".join([shell, "exec", sys.executable, "-m", "jepa", *arguments])
            launch += ["--no-python", "bash", "-c", command]
        else:
            launch = ["-c", script, *arguments] if script else [*launch, "-m", "jepa", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "12", "COLUMNS": "500"}
        begun.append(
            subprocess.Popen(
                [sys.executable, *launch],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return begun[-1]

    yield begin
    for process in begun:
        if process.poll() is None:
            process.terminate()  # a killed launcher would leave its processes behind
            process.communicate(timeout=40)


def steps_of(out):
    return [record["step"] for record in read(out / "log.jsonl") if "loss" in record]


def wait_for(condition, process):
    deadline = time.monotonic() + 100
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.02)


def heartbeat(out, rank):
    return json.loads((out / "heartbeat" / f"rank_{rank:05d}.json").read_text())


def signal_rank(out, rank, number):
    os.kill(heartbeat(out, rank)["pid"], number)


def status(out):
    return json.loads((out / "status.json").read_text())


def ended(process):
    """Exit code and the lines of a process on stderr."""
    _, errors = process.communicate(timeout=100)
    return process.returncode, errors.splitlines()


def newest(out):
    """The step of the newest checkpoint; none may be broken."""
    folder, problems = checkpoint.latest(out)
    assert not problems and folder is not None
    return int(re.sub(r"\D", "", folder.name))


@pytest.mark.fault("S1")
@pytest.mark.parametrize(
    "signals",
    [
        [(1, signal.SIGTERM)],
        pytest.param([(0, signal.SIGUSR1), (1, signal.SIGUSR1)], marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_one_rank_of_two_stops_both_at_one_step_with_a_checkpoint_of_it(tmp_path, start, signals):
    for rank, number in signals:
        before = max(steps_of(tmp_path), default=0)
        process = start(tmp_path)
        wait_for(lambda before=before: max(steps_of(tmp_path), default=0) > before + 5, process)
        signal_rank(tmp_path, rank, number)
        code, errors = ended(process)
        assert code == 1  # torchrun's own, whatever those of its processes were
        assert any(re.search(r"exitcode\s*: 75", line) for line in errors)
        logged = steps_of(tmp_path)
        assert logged == list(range(1, logged[-1] + 1))  # the second run went on where the first one stopped
        assert newest(tmp_path) == logged[-1]
        assert status(tmp_path) == {"state": "preempted", "step": logged[-1], "exit_code": PREEMPTED}


@pytest.mark.fault("S2")
def test_signals_while_the_checkpoint_is_written_change_nothing(tmp_path, start):
    process = start(tmp_path, script=SLOW_DISK)
    wait_for(lambda: len(steps_of(tmp_path)) > 5, process)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: list((tmp_path / "checkpoints").glob("*")), process)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(number)
    code, _ = ended(process)
    assert code == PREEMPTED
    assert newest(tmp_path) == steps_of(tmp_path)[-1] == status(tmp_path)["step"]


@pytest.mark.fault("S3")
@pytest.mark.parametrize(
    ("number", "rank"),
    [
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGSTOP, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, 0, marks=pytest.mark.slow),
    ],
)
def test_where_one_rank_is_killed_or_stopped_the_other_names_it_and_ends(tmp_path, start, number, rank):
    process = start(tmp_path)
    wait_for(lambda: len(steps_of(tmp_path)) > 5 and heartbeat(tmp_path, rank)["at"][0] > 0, process)
    signal_rank(tmp_path, rank, number)
    code, errors = ended(process)
    assert code == 1
    said = {line[line.index("jepa: rank") :] for line in errors if "jepa: rank" in line}
    assert len(said) == 1 and said.pop().startswith(f"jepa: rank {rank} (on ")
    assert (status(tmp_path)["state"], status(tmp_path)["exit_code"]) == ("failed", LOST)


def check_refused(process, what):
    code, errors = ended(process)
    assert code == 1
    said = [line[line.index("jepa: ") :] for line in errors if "do not agree" in line]
    assert len(set(said)) == 1, errors  # the launcher may end the second before it has spoken
    assert what in said[0] and "rank 1" in said[0]


@pytest.mark.fault("S4")
def test_ranks_that_start_with_different_seeds_are_refused_by_both(tmp_path, start):
    check_refused(start(tmp_path, "seed=$RANK", shell=":;"), "agree on seed: 1 on rank 1, 0 on rank 0;")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.fault("S4")
def test_ranks_that_start_with_different_configs_or_data_are_refused_by_both(tmp_path, start, moving_square):
    check_refused(start(tmp_path / "a", "encoder.depth=$((1+RANK))", shell=":;"), "agree on encoder.depth: 2 on rank 1")
    for rank, source in enumerate((moving_square, moving_square.parent / "square0")):
        (tmp_path / str(rank)).mkdir()
        if rank == 0:
            (tmp_path / "0" / "shards").symlink_to(source)
        else:
            pack("folder", source, tmp_path / "1" / "shards")
    other = start(tmp_path / "b", shards="shards", shell=f"cd {tmp_path}/$RANK;")
    check_refused(other, "data")
