"""Workers that hang, die or raise: the sample is skipped or the run says why, every other batch is as without it."""

import faulthandler
import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from jepa.data import pack as packing
from jepa.data import slots as slots_file
from jepa.data.clip import Clip
from jepa.data.config import DataConfig
from jepa.data.errors import DataError
from jepa.data.index import Manifest
from jepa.data.loader import clips
from jepa.data.slots import Skipped, Slots

faults = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fault_fixtures.py"))))
watchdog = faults.watchdog

CONFIG = DataConfig(frames=3, fps=0, size=16, workers=2)
RUN = {"batch_size": 4, "seed": 5, "steps": 6}
VICTIM = 7  # the sample that workers meet their end at


def sleep() -> None:
    time.sleep(1000)


def hold_the_interpreter() -> None:
    re.match("(a+)+$", "a" * 50 + "b")  # no other thread of the process runs meanwhile


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> NoReturn:
    raise DataError("refused")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch looks every 5 s whether a worker died; that is too long for so many deaths."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.5,))


@pytest.fixture
def at_victim(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Has workers, which are forked, do something where they decode the victim."""
    video, decode = manifest.read(VICTIM).video, slots_file.decode

    def apply(act: Callable[[], None]) -> None:
        def decoder(data: bytes, *args: object, **more: object) -> object:
            if data == video:
                act()
            return decode(data, *args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(slots_file, "decode", decoder)

    return apply


def run(manifest: Manifest, config: DataConfig) -> tuple[list[Clip], list[Skipped]]:
    loader = clips([manifest], config, **RUN)
    return list(loader), loader.skipped


@pytest.mark.fault("D9", "D15")
@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (sleep, "took more than 1 s to read"),
        (hold_the_interpreter, "took more than 1 s to read"),
        (die, "the data worker that read it died, twice"),
    ],
)
def test_a_sample_that_workers_hang_at_or_die_of_is_skipped(
    manifest: Manifest, at_victim: Callable[..., None], act: Callable[[], None], reason: str
) -> None:
    """D9 and D15: as if the sample could not be read, but for the reason."""
    at_victim(refuse)
    expected, ledger = run(manifest, replace(CONFIG, workers=0))
    assert {s.key for s in ledger} == {manifest[VICTIM].key}
    at_victim(act)
    batches, skipped = run(manifest, replace(CONFIG, timeout=1))
    assert faults.all_same(batches, expected)
    assert skipped == [s._replace(reason=reason) for s in ledger]


@pytest.mark.fault("D9")
def test_workers_do_not_wait_for_their_parents_watchdog(manifest: Manifest) -> None:
    """D9: a lock of faulthandler's is taken in a fork of a process that uses it, and nobody there lets it go."""
    faulthandler.dump_traceback_later(1000)
    try:
        assert faults.all_same(run(manifest, CONFIG)[0], run(manifest, replace(CONFIG, workers=0))[0])
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.mark.fault("D15")
@pytest.mark.parametrize("victims", [slice(1), slice(None)])
def test_killed_workers_change_nothing(manifest: Manifest, victims: slice) -> None:
    """D15: one of them, or all. No sample comes twice in these steps: one that two had died of would be skipped."""
    once = {**RUN, "steps": len(manifest) // RUN["batch_size"]}
    expected = list(clips([manifest], replace(CONFIG, workers=0), **once))
    loader = clips([manifest], CONFIG, **once)
    batches = [next(loader)]
    for worker in multiprocessing.active_children()[victims]:
        os.kill(worker.pid or 0, signal.SIGKILL)
    batches += loader
    assert faults.all_same(batches, expected) and not loader.skipped


@pytest.mark.fault("D15")
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux")
def test_a_worker_killed_while_its_batches_wait_changes_nothing(manifest: Manifest) -> None:
    """D15: half of a message in the pipe would be waited for without end, so messages are too short to be halved.

    The open files tell: a worker keeps one for each tensor of a message.
    """
    few_decodes = replace(CONFIG, cache_gb=0.1)
    large = {"batch_size": 200, "seed": 5, "steps": 6}
    expected = list(clips([manifest], replace(few_decodes, workers=0), **large))
    loader = clips([manifest], few_decodes, **large)
    batches = [next(loader)]
    time.sleep(2)  # until all is prepared that is prepared ahead
    workers = multiprocessing.active_children()
    assert all(len(os.listdir(f"/proc/{worker.pid}/fd")) < 100 for worker in workers)
    os.kill(workers[0].pid or 0, signal.SIGKILL)
    batches += loader
    assert faults.all_same(batches, expected)


@pytest.mark.fault("D15")
def test_only_the_dead_are_blamed(manifest: Manifest) -> None:
    """D15: not what other workers read at the time."""
    slots = Slots([manifest], CONFIG, 4, 0)
    for dead in (11, 12):
        slots.begin()
        slots.reading[0], slots.reading[1] = slots.reading.new_tensor([[3, dead], [4, 99]])
        slots.note_deaths({dead: -9, 99: None})
    assert set(slots.unreadable) == {3} and slots.deaths == {3: 2}


@pytest.mark.fault("D15")
@pytest.mark.parametrize("error", [ZeroDivisionError, OSError, RuntimeError, MemoryError])
def test_what_a_worker_raises_ends_the_run_with_its_traceback(
    manifest: Manifest, at_victim: Callable[..., None], error: type[Exception]
) -> None:
    """D15: a fault of the program is no bad sample."""

    def act() -> NoReturn:
        raise error("by a bug")

    at_victim(act)
    with pytest.raises(error, match=r"(?s)DataLoader worker process.*in act.*by a bug"):
        run(manifest, CONFIG)
    with pytest.raises(error, match=r"^by a bug$"):
        run(manifest, replace(CONFIG, workers=0))


@pytest.mark.fault("D15")
def test_workers_that_always_die_end_the_run(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """D15: as where there is not enough memory for one."""
    monkeypatch.setattr(slots_file, "decode", lambda *_, **__: die())
    monkeypatch.setattr("jepa.data.loader.RESTARTS", 1)
    with pytest.raises(DataError, match=r"^data workers died 2 times in a row: [^\n]*$"):
        run(manifest, CONFIG)


@pytest.mark.fault("D9", "D15")
@pytest.mark.parametrize("act", [sleep, die])
def test_a_recording_that_its_process_hangs_at_or_dies_of_is_rejected(
    tmp_path: Path, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]
) -> None:
    """D9 and D15 in a pack."""
    (tmp_path / "raw").mkdir()
    for i in range(6):
        (tmp_path / "raw" / f"{i}.mp4").write_bytes(make.video(4 + i))
    deadly, inspect = (tmp_path / "raw" / "3.mp4").read_bytes(), packing.video.inspect
    monkeypatch.setattr(packing, "LONGEST", 1.0)
    monkeypatch.setattr(
        packing.video, "inspect", lambda data, **more: (data == deadly and act(), inspect(data, **more))[1]
    )
    report = packing.pack("folder", tmp_path / "raw", tmp_path / "out", workers=2)
    assert report is not None and report.packed == 5
    [rejected] = report.rejected
    assert rejected.file == "3.mp4" and "the process that read it died, or took more than 1 s" in rejected.reason
    assert [entry.frames for entry in Manifest.load(tmp_path / "out")] == [4, 5, 6, 8, 9]


PARENT = """
import os, time
from jepa.data.parallel import in_order

def work(i):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(0.1)

list(in_order(work, range(1000), 3, print))
"""


@pytest.mark.fault("D15")
def test_processes_end_with_a_killed_parent() -> None:
    """D15 in a pack: else a killed one would leave them behind for ever."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        assert int(parent.stdout.readline()) != parent.pid
        parent.kill()
        parent.stdout.read()  # ends when all who could write to it are gone
