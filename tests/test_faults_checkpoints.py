"""Faults of checkpoints, C1 to C8: a kill, a full disk or damage never costs the last good one, and none is silent."""

import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa import checkpoint, checkpoint_attempt, checkpoint_retention, checkpoint_writer
from jepa.checkpoint import CheckpointError, claim_run, latest, load_weights, read_model
from jepa.checkpoint_format import fault, files_of, folder_of, measure, names, read_state, reader, write_state
from jepa.checkpoint_writer import Writer
from jepa.models.encoder import build_encoder
from jepa.pieces import Piece, whole

FORK = multiprocessing.get_context("fork")


def pieces(step, size=1000, rank=0, world=1):
    """Tensors that hold the step; by `world` processes, each has a slice."""
    own = slice(size * rank // world, size * (rank + 1) // world)
    names = ("model/encoder.w", "model/target_encoder.w", "optimizer/encoder.w/exp_avg")
    return {name: Piece(torch.full((size,), float(step))[own], (size,), own.start) for name in names}


def save(run, *steps, size=1000, world=1, **options):
    """Checkpoints by `world` processes, here threads; returns the last."""
    barrier = threading.Barrier(world)

    def one(rank):
        with Writer(run, rank, world, barrier=barrier.wait, **options) as writer:
            for step in steps:
                writer.save(step, pieces(step, size, rank, world), {"at": step})

    def another(rank):
        with suppress(CheckpointError):  # process 0 raises as well
            one(rank)

    others = [threading.Thread(target=another, args=(rank,)) for rank in range(1, world)]
    for thread in others:
        thread.start()
    one(0)
    for thread in others:
        thread.join(60)
    return folder_of(run, steps[-1])


def loads(folder):
    """Every tensor of a checkpoint is there and of its step."""
    state = read_state(folder)
    read = reader(folder)
    assert set(names(folder)) == set(pieces(0)) and state["extra"] == {"at": state["step"]}
    return all((read(name) == state["step"]).all() for name in pieces(0))


def child(function):
    """Run `function` in a forked process, which may be killed; its exit code and the text that it returns."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=lambda: theirs.send(function()))
    process.start()
    theirs.close()
    process.join(60)
    assert process.exitcode is not None, "hangs"
    return process.exitcode, ours.recv() if process.exitcode == 0 else ""


def killed_while_saving(run, rng):
    """A process that saves one checkpoint after another is killed some milliseconds after it has begun one."""

    def work():
        with Writer(run) as writer:
            for step in range(2, 10**6):
                begun.set()
                writer.save(step, pieces(step, 10**6), {"at": step})

    begun = FORK.Event()
    process = FORK.Process(target=work)
    process.start()
    assert begun.wait(30)
    time.sleep(rng.uniform(0, 0.2))
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    folder, problems = latest(run)
    assert folder is not None and problems == [] and loads(folder)
    assert loads(save(run, read_state(folder)["step"] + 1))  # and the next attempt is not troubled by what is left


@pytest.mark.fault("C1")
@pytest.mark.parametrize("seed", range(3))
def test_C1_a_kill_while_saving_leaves_a_checkpoint_that_loads(tmp_path, seed):
    save(tmp_path, 1)
    killed_while_saving(tmp_path, np.random.default_rng(seed))


@pytest.mark.fault("C1")
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_C1_fifty_kills_at_random(tmp_path, seed):
    save(tmp_path, 1)
    killed_while_saving(tmp_path, np.random.default_rng(100 + seed))


@pytest.mark.fault("C1")
def test_C1_a_kill_before_every_operation_on_files(tmp_path, monkeypatch):
    """Where random moments do not reach: between the two files, the manifest, the renames, the purge."""

    def work(run, fatal):
        count = 0

        def counted(function):
            def call(*args, **kwargs):
                nonlocal count
                count += 1
                if count == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        for name in ("fsync", "replace", "unlink", "rmdir", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        checkpoint_attempt.save_file = counted(checkpoint_attempt.save_file)
        save(run, 3, keep=1)

    save(tmp_path / "first", 1, 2)
    found = []
    for fatal in range(1, 100):
        run = shutil.copytree(tmp_path / "first", tmp_path / str(fatal))
        code, _ = child(lambda run=run, fatal=fatal: work(run, fatal))
        folder, problems = latest(run)
        assert problems == [] and loads(folder)
        found.append(read_state(folder)["step"])
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert found == sorted(found) and set(found) == {2, 3} and len(found) > 12


@pytest.mark.fault("C2")
@pytest.mark.parametrize("limit", [10, 500, 30_000])
def test_C2_a_full_disk_leaves_the_old_one_and_is_said(tmp_path, limit):
    old = save(tmp_path, 1)

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            save(tmp_path, 2, size=10_000)
        except CheckpointError as error:
            return str(error)
        return "nothing was said"

    code, said = child(work)
    assert code == 0 and "\n" not in said
    assert said.startswith("step_00000002 was not written: ") and "File too large" in said
    assert str(tmp_path) in said and said.endswith("older checkpoints are whole")
    assert latest(tmp_path) == (old, []) and loads(old)
    assert loads(save(tmp_path, 2))


def bits(tensor):
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()


def damage(data, kind, rng):
    """One bit flipped, the end cut off, or a page of zeros: never the same bytes."""
    place = int(rng.integers(len(data)))
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]
    if kind == "cut":
        return data[:place]
    page = data[:place] + bytes(len(data[place : place + 4096])) + data[place + 4096 :]
    return page if page != data else damage(data, kind, rng)


@pytest.mark.fault("C3")
@pytest.mark.parametrize("world", [1, 2])
def test_C3_damage_anywhere_is_found_and_an_older_one_is_used(tmp_path, world):
    older, newer = save(tmp_path, 1, world=world), save(tmp_path, 2, world=world)
    rng, found = np.random.default_rng(world), 0
    for file in [*files_of(world), "state.json"]:
        good = (newer / file).read_bytes()
        for number in range(100):
            (newer / file).write_bytes(damage(good, ("flip", "cut", "page")[number % 3], rng))
            folder, problems = latest(tmp_path)
            found += folder == older and len(problems) == 1 and file in problems[0]
            assert "trying an older checkpoint" in problems[0]
        (newer / file).write_bytes(good)
    assert found == 100 * (2 * world + 1)
    assert latest(tmp_path) == (newer, []) and loads(newer)


@pytest.mark.fault("C4")
def test_C4_a_part_that_is_missing_or_of_another_step_is_refused(tmp_path):
    older, newer = save(tmp_path, 1, world=2), save(tmp_path, 2, world=2)
    for file in files_of(2):
        good = (newer / file).read_bytes()
        (newer / file).unlink()
        assert fault(newer) == f"{newer}: {file} is missing" and latest(tmp_path)[0] == older
        shutil.copy(older / file, newer / file)
        assert fault(newer) == f"{newer}: {file} does not match its size and sha256" and latest(tmp_path)[0] == older
        (newer / file).write_bytes(good)
    assert fault(newer) == ""
    (newer / "state.json").unlink()  # it was not committed, so it is no checkpoint
    assert latest(tmp_path) == (older, [])


@pytest.mark.fault("C4")
def test_C4_a_process_that_does_not_write_is_named(tmp_path, monkeypatch):
    old = save(tmp_path, 1, world=2)
    write = checkpoint_attempt.save_file

    def fails_in_process_1(tensors, path):
        if "00001-of" in path.name:
            raise OSError(28, "No space left on device", str(path))
        write(tensors, path)

    monkeypatch.setattr(checkpoint_attempt, "save_file", fails_in_process_1)
    with pytest.raises(CheckpointError) as caught:
        save(tmp_path, 2, world=2)
    assert "process 1: " in str(caught.value) and "No space left on device" in str(caught.value)
    assert latest(tmp_path) == (old, [])


@pytest.fixture
def gate(monkeypatch):
    """Writing waits until it is opened."""
    opened, write = threading.Event(), checkpoint_attempt.save_file
    monkeypatch.setattr(checkpoint_attempt, "save_file", lambda *args: (opened.wait(20), write(*args)))
    return opened


@pytest.mark.fault("C5")
def test_C5_the_next_save_and_the_end_wait_for_a_running_one(tmp_path, gate):
    with Writer(tmp_path) as writer:
        writer.save(1, pieces(1), {"at": 1})
        assert latest(tmp_path)[0] is None  # it returned before anything was written
        threading.Timer(0.2, gate.set).start()
        writer.save(2, pieces(2), {"at": 2})
        assert loads(folder_of(tmp_path, 1))
    assert loads(folder_of(tmp_path, 2))


@pytest.mark.fault("C5")
@pytest.mark.parametrize("ask", ["check", "save", "close", "error"])
def test_C5_a_failure_in_the_background_is_raised_once_asked(tmp_path, monkeypatch, capsys, ask):
    def full(*_):
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr(checkpoint_attempt, "save_file", full)
    writer, message = Writer(tmp_path), r"step_00000001 was not written: model\.safetensors: No space"
    writer.save(1, pieces(1), {})
    until = time.monotonic() + 20
    while not writer.failed and time.monotonic() < until:
        time.sleep(0.01)
    assert writer.failed
    if ask == "error":  # one that is under way is not hidden by it, nor it by that
        with pytest.raises(RuntimeError, match="another"), writer:
            raise RuntimeError("another")
        assert "step_00000001 was not written" in capsys.readouterr().err
        return
    with pytest.raises(CheckpointError, match=message):
        writer.save(2, pieces(2), {}) if ask == "save" else getattr(writer, ask)()
    writer.close()  # said once


@pytest.mark.fault("C5")
def test_C5_after_a_failure_no_process_waits_for_another(tmp_path, monkeypatch):
    """The files of process 1 fail; at the next save, process 0 knows by its word, and both leave."""
    write = checkpoint_attempt.save_file
    monkeypatch.setattr(checkpoint_attempt, "_PATIENCE", 0.5)
    monkeypatch.setattr(
        checkpoint_attempt,
        "save_file",
        lambda tensors, path: write(tensors, path / "no" if "00001-of" in path.name else path),
    )
    barrier, said = threading.Barrier(3, timeout=20), {}

    def one(rank):
        writer = Writer(tmp_path, rank, 3, barrier=barrier.wait)
        writer.save(1, pieces(1, 1000, rank, 3), {})
        with pytest.raises(CheckpointError) as caught:
            writer.save(2, pieces(2, 1000, rank, 3), {})
        said[rank] = str(caught.value)
        writer.close()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert "step_00000001 was not written: process 1: " in said[0] and "model-00001-of-00003" in said[1]
    assert "step_00000002 was not written" in said[2] and "process 0 did not begin it" in said[2]


@pytest.mark.fault("C5")
def test_C5_a_process_that_ends_waits_for_its_checkpoint(tmp_path):
    """Without `close`: the interpreter waits, and what fails then is printed."""
    script = """
import sys, time, torch
from pathlib import Path
from jepa import checkpoint_attempt
from jepa.checkpoint_writer import Writer
from jepa.pieces import whole
write = checkpoint_attempt.save_file
checkpoint_attempt.save_file = lambda *args: (time.sleep(0.3), write(*args))
for run in sys.argv[1:]:
    Writer(Path(run)).save(1, {"model/w": whole(torch.ones(2))}, {})
"""
    blocked = tmp_path / "blocked"
    folder_of(blocked, 1).mkdir(parents=True)
    (folder_of(blocked, 1).parent / "step_00000001.old.partial").write_text("in the way")
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "good"), str(blocked)], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0 and latest(tmp_path / "good")[0] is not None
    assert latest(blocked)[0] is None and "step_00000001 was not written" in ended.stderr


@pytest.mark.fault("C6")
@pytest.mark.parametrize("stage", ["set_aside", "shutil.rmtree"])
def test_C6_a_purge_that_fails_is_reported_and_the_run_goes_on(tmp_path, monkeypatch, capsys, stage):
    save(tmp_path, 1, 2)

    def denied(folder, ignore_errors=False):
        if not ignore_errors:
            raise PermissionError(13, "Permission denied", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(f"jepa.checkpoint_retention.{stage}", denied)
        save(tmp_path, 3, 4, keep=1)
    assert "cannot remove the old checkpoint" in capsys.readouterr().err
    assert loads(latest(tmp_path)[0]) and latest(tmp_path)[0] == folder_of(tmp_path, 4)
    save(tmp_path, 5, keep=1)
    assert [f.name for f in (tmp_path / "checkpoints").iterdir()] == ["step_00000005"]


@pytest.mark.fault("C6")
def test_C6_a_crash_between_write_and_purge(tmp_path, monkeypatch):
    save(tmp_path, 1, 2)

    def work():
        checkpoint_writer.settle = lambda *_: os._exit(9)
        save(tmp_path, 3, keep=1)

    assert child(work)[0] == 9
    assert loads(latest(tmp_path)[0]) and latest(tmp_path)[0] == folder_of(tmp_path, 3)
    save(tmp_path, 4, keep=1)
    assert [f.name for f in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]


@pytest.mark.fault("C6")
def test_C6_the_best_outlives_a_damaged_note(tmp_path):
    with Writer(tmp_path, keep=1) as writer:
        for step, score in ((1, 0.9), (2, 0.1), (3, 0.2)):
            writer.save(step, pieces(step), {"at": step}, score)
    assert loads(folder_of(tmp_path, 1)) and checkpoint_retention.best(tmp_path)["step"] == 1
    (tmp_path / "best.json").write_text("{")
    assert loads(save(tmp_path, 4)) and checkpoint_retention.best(tmp_path) is None


@pytest.mark.fault("C7")
def test_C7_a_pickle_is_refused_and_runs_nothing(tmp_path):
    class Gadget:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'owned')!r}, 'w').close()",))

    claim_run(tmp_path, {})
    folder = save(tmp_path, 1)
    state = read_state(folder)
    for file in ("model.safetensors", "optimizer.safetensors", "state.json"):
        good = (folder / file).read_bytes()
        (folder / file).write_bytes(pickle.dumps(Gadget()))
        if file != "state.json":  # with a manifest that fits
            sums = state["files"] | {file: measure(folder / file)}
            write_state(folder, {key: value for key, value in state.items() if key != "format"} | {"files": sums})
            assert fault(folder) == ""
        with pytest.raises(CheckpointError, match=file.replace(".", r"\.")) as caught:
            read_model(tmp_path)
            reader(folder)
        assert "\n" not in str(caught.value)
        (folder / file).write_bytes(good)
    assert not (tmp_path / "owned").exists()


@pytest.mark.fault("C7")
def test_C7_what_does_not_fit_is_named_and_changes_nothing(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    before = deepcopy(model.state_dict())
    good = {f"model/{name}": whole(value + 1) for name, value in before.items()}
    for step, (given, message) in enumerate(
        (
            ({"model/0.weight": whole(torch.ones(3, 2))}, "0.bias is missing"),
            ({**good, "model/1.weight": whole(torch.ones(1))}, "1.weight is unexpected"),
            ({**good, "model/0.weight": whole(torch.ones(2, 3))}, r"0.weight is \(2, 3\), the model wants \(3, 2\)"),
            ({f"model/net.{k}": whole(v) for k, v in before.items()}, r"0.weight is missing \(and 3 more\)"),
        )
    ):
        with Writer(tmp_path) as writer:
            writer.save(step, given, {})
        folder = folder_of(tmp_path, step)
        with pytest.raises(CheckpointError, match=message) as caught:
            load_weights(model, checkpoint.load(folder), str(folder))
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.fault("C8")
@pytest.mark.parametrize("world", [1, 3])
def test_C8_all_state_comes_back_to_the_last_bit(tmp_path, tiny, world):
    generator = torch.Generator().manual_seed(0)
    encoder, target = build_encoder(tiny, 0), build_encoder(tiny, 7)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-2)
    encoder(torch.rand(1, 2, 3, 16, 16, generator=generator)).square().mean().backward()
    optimizer.step()
    given = {f"model/encoder.{k}": v for k, v in encoder.state_dict().items()}
    given |= {f"model/target_encoder.{k}": v for k, v in target.state_dict().items()}
    for name, parameter in encoder.named_parameters():
        given |= {f"optimizer/encoder.{name}/{key}": v for key, v in optimizer.state.get(parameter, {}).items()}
    odd = [
        torch.tensor(float("nan")),
        torch.tensor([-0.0, 1e-45, float("inf")]),
        torch.zeros(0, 3),
        torch.tensor(2**40),
    ]
    odd += [torch.randn(5, 2, generator=generator).bfloat16(), torch.tensor([True, False])]
    given |= {f"engine/{number}": value for number, value in enumerate(odd)}
    extra = {"rng": generator.get_state()[:64].tolist(), "data": {"step": 7}, "loss_scale": 65536.0, "ü": 0.1}

    def share(rank):
        own = {}
        for name, value in given.items():
            flat, count = value.detach().reshape(-1), value.numel()
            cut = slice(count * rank // world, count * (rank + 1) // world)
            if count >= world:
                own[name] = Piece(flat[cut], tuple(value.shape), cut.start)
            elif rank == 0:
                own[name] = whole(value)
        return own

    barrier = threading.Barrier(world)

    def one(rank):
        with Writer(tmp_path, rank, world, barrier=barrier.wait) as writer:
            writer.save(7, share(rank), extra)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    folder, _ = latest(tmp_path)
    read = reader(folder)
    assert names(folder) == sorted(given) and read_state(folder)["extra"] == json.loads(json.dumps(extra))
    for name, value in given.items():
        back = read(name)
        assert back.dtype == value.dtype and back.shape == value.shape
        assert bits(back) == bits(value), name
    assert sum(name.startswith("optimizer/") for name in given) > 10
    assert not list(Path(folder.parent).glob("*.partial"))
