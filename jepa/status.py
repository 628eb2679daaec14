"""How a run ended: RUN/status.json, which a script can read, and the exit code, which launchers replace."""

import errno
import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from jepa.preemption import PREEMPTED

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

FAILED, MENDABLE, INTERRUPTED = 1, 2, 130
"""Exit codes of a fault that nobody foresaw, of one that the user can mend, and of Ctrl-C."""


class Status:
    """Keeps RUN/status.json while it is entered: {"state": …, "step": …, "exit_code": …}.

    `state` is running (with exit code null), preempted, failed or done; a run that is killed stays `running`. One
    process of a run keeps it, and sets `step` to the last one that is complete.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.run, self.step = run, step

    def __enter__(self) -> "Status":
        write_status(self.run, "running", self.step, None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        code = exit_code(error)
        with suppress(OSError):  # a full disk, say: the error that is under way matters more
            self._write(code)

    def _write(self, code: int) -> None:
        write_status(self.run, {0: "done", PREEMPTED: "preempted"}.get(code, "failed"), self.step, code)


def write_status(run: Path, state: str, step: int, code: int | None) -> None:
    """Replace RUN/status.json as a whole."""
    write_json(run / "status.json", {"state": state, "step": step, "exit_code": code})


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace a small file: who reads it sees the old values or the new ones."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # several processes may write the same
    partial.write_text(json.dumps(values, indent=1) + "\n")
    partial.replace(path)


def exit_code(error: BaseException | None) -> int:
    """With which code the command ends for `error`; 0 for none."""
    if error is None:
        return 0
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return int(getattr(error, "exit_code", MENDABLE if is_mendable(error) else FAILED))


def is_mendable(error: BaseException) -> bool:
    """Whether the user can mend it, and its message says so in one line: we raised it, or the system for a file."""
    if isinstance(error, OSError):  # a folder that may not be written, a full disk, which knows of no file
        return bool(error.filename) or error.errno in _FULL
    return isinstance(error, ValueError | FloatingPointError | ModuleNotFoundError) and _is_ours(error)


def _is_ours(error: BaseException) -> bool:
    """Whether the message was written for the user: raised by this package, here or in a worker process."""
    if type(error).__module__.split(".")[0] == "jepa":
        return True
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").split(".")[0] == "jepa"
