"""Where one process of a run dies or stalls, the others say which one and end, instead of waiting for it for ever."""

import faulthandler
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist

from jepa import heartbeat
from jepa.preemption import Preempted
from jepa.status import exit_code, write_status

LOST = 76
"""The exit code of a process that ended because another one did, or because the run stood still."""

BEAT = 1.0  # seconds from heartbeat to heartbeat of a process
ASK = 4  # heartbeats to wait for the others' word on why a collective failed


class LostRank(RuntimeError):
    """A collective failed; the message is one line and names the rank that is gone.

    `exit_code` is that of a rank which left with an error of its own, else `LOST`.
    """

    def __init__(self, line: str, exit_code: int) -> None:
        super().__init__(line)
        self.exit_code = exit_code


class Watchdog:
    """Watches the `world` processes of a run, which each `beat` at least once a step, while it is entered.

    Once a rank has made no progress for `timeout` seconds, or gives no sign of life for a shorter while, or left with
    an error that the others do not have, every other process prints one line that names it, and ends with exit code
    `LOST`. A process that stalls itself also prints where it stands. A process alone only prints: it may be in a
    debugger. Time in which this process itself is stopped does not count.

    An error of a collective in the body becomes `LostRank`. All processes must see the folder `run`: heartbeats are
    small files in it, for they need no process to outlive the others.
    """

    def __init__(self, run: Path, rank: int, world: int, timeout: float, step: int = 0) -> None:
        self.run, self.rank, self.world, self.timeout = run, rank, world, timeout
        self._record: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "at": (step, 0)}
        self._seen = {other: heartbeat.Seen(heartbeat.read(self._path(other))) for other in range(world)}
        self._now, self._told = 0.0, None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self, step: int) -> None:
        """Say that this process goes on, at `step`: once a step, and now and then within what takes long."""
        before, count = self._record["at"]
        self._record["at"] = (step, count + 1 if step == before else 0)

    def __enter__(self) -> "Watchdog":
        if self.world > 1:
            self._path(self.rank).parent.mkdir(parents=True, exist_ok=True)
        self._publish()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if error is not None and self.world > 1 and of_a_collective(error):
            line = self.explain(error)
            self._fail(line)
            raise LostRank(line, self._code()) from error
        if error is None or isinstance(error, Preempted):
            self._publish(left="")
        else:
            self._publish(left=f"{type(error).__name__}: {error}".splitlines()[0][:300], code=exit_code(error))

    def explain(self, error: BaseException) -> str:
        """One line on why a collective failed: which rank has left or is gone, and how far it was. Takes seconds."""
        self._look()
        heard = {rank: seen.heard for rank, seen in self._seen.items()}
        for _ in range(ASK):
            time.sleep(BEAT)
            self._now += BEAT
            self._publish()  # else the others would take this rank for the one that is gone
            self._look()
            for rank, seen in self._seen.items():
                if verdict := seen.says("verdict"):
                    return verdict
                if reason := seen.says("left"):
                    return heartbeat.left(rank, seen, reason)
        gone = [r for r, seen in self._seen.items() if seen.heard == heard[r] and seen.says("left") is None]
        if gone:
            return heartbeat.silent(gone, self._seen, self._now)
        return f"a collective failed, though every rank is there: {str(error).strip().splitlines()[0]}"

    def _watch(self) -> None:
        before, due = time.monotonic(), 0.0
        while not self._over.wait(BEAT):
            now = time.monotonic()
            self._now += min(now - before, 2 * BEAT)  # the rest of it we were stopped, and maybe the others with us
            before = now
            self._publish()
            if self._now < due:
                continue
            due = self._now + min(self.timeout / 60, 30)  # many processes read many files
            self._look()
            line = heartbeat.judge(self._seen, self._now, self.timeout)
            if line and self._record["at"] != self._told:
                self._tell(line)

    def _tell(self, line: str) -> None:
        self._told = self._record["at"]  # once for each stall of a process alone
        end = "" if self.world == 1 else "; this process ends"
        os.write(2, f"\njepa: {line}{end}\n".encode())  # not print: the main thread may hang within one
        if self.world == 1:
            return
        if f"rank {self.rank} (" in line:
            faulthandler.dump_traceback(2)
        self._fail(line)
        os._exit(LOST)  # the main thread is inside a collective, which nothing interrupts

    def _fail(self, line: str) -> None:
        """Tell the others, and put down how the run ended: the process that keeps its status may be the lost one."""
        self._publish(left="", verdict=line)
        with suppress(OSError):
            write_status(self.run, "failed", self._record["at"][0], self._code())

    def _code(self) -> int:
        """Of a rank that left with an error, for that is what is to be mended; `LOST` where one is gone."""
        codes = [(seen.record or {}).get("code") for seen in self._seen.values()]
        return next((code for code in codes if code is not None), LOST)

    def _look(self) -> None:
        for rank, seen in self._seen.items():
            if rank != self.rank:
                seen.note(heartbeat.read(self._path(rank)), self._now)

    def _publish(self, **last: Any) -> None:
        record = {**self._record, "time": time.time(), **last}
        self._seen[self.rank].note(record, self._now)
        if self.world > 1:
            with suppress(OSError):  # the others take us for gone if that goes on
                heartbeat.write(self._path(self.rank), record)

    def _path(self, rank: int) -> Path:
        return self.run / "heartbeat" / f"rank_{rank:05d}.json"


def of_a_collective(error: BaseException) -> bool:
    """Whether NCCL, gloo or the store raised it."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))
