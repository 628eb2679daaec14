"""Stop in good order when a scheduler or Ctrl-C asks for it: a signal sets a flag, which the loop reads once a step."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

PREEMPTED = 75
"""The exit code of a run that saved a checkpoint and stopped because it was asked to (EX_TEMPFAIL: try again)."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Preempted(Exception):
    """The run was asked to stop, and has saved a checkpoint of `step`; the message is one line."""

    exit_code = PREEMPTED

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}, as asked; its checkpoint is written, and the same command goes on")
        self.step = step


class Preemption:
    """While entered, SIGTERM, SIGUSR1 and the first Ctrl-C only set `requested`; a second Ctrl-C ends the process.

    Of several processes some may get the signal a step before others: agree on `requested` over all of them, save,
    and raise `Preempted`. Outside the main thread, where Python hears of no signal, `requested` stays False.
    """

    def __init__(self) -> None:
        self.requested = False
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a data worker, which has this handler by its fork; the process that it works for ends it
        self.requested = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # of the system: it ends a process inside a collective as well
            # Not print: the signal may have come in the midst of one.
            os.write(2, b"\njepa: saving a checkpoint after this step, then stopping; Ctrl-C again stops at once\n")
