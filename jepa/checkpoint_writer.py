"""Writes checkpoints in the background: a copy in memory at once, the rest while training goes on."""

import atexit
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from jepa.checkpoint_attempt import begin, begun, commit, give_up, write_part
from jepa.checkpoint_format import CheckpointError, folder_of
from jepa.checkpoint_retention import settle
from jepa.logs import console
from jepa.pieces import Piece, Pieces

UNWIND = 10.0
"""Seconds that the other processes have for a checkpoint when the run ends with an error."""


class Writer:
    """The checkpoints of a run, as process `rank` of `world` sees them; every process has one and saves the same steps.

    `barrier` waits until all processes have called it. `keep`, `keep_every`: see `purge`. Process 0 waits `timeout`
    seconds for the others' files. Where writing fails, the older checkpoints are as they were, and the next `check`,
    `save` or `close` raises CheckpointError. As a context, it waits at the end.
    """

    def __init__(
        self,
        run: Path,
        rank: int = 0,
        world: int = 1,
        engine: str = "plain",
        barrier: Callable[[], None] = lambda: None,
        keep: int = 2,
        keep_every: int = 0,
        timeout: float = 1800.0,
    ) -> None:
        self.run, self.rank, self.world, self.engine = run, rank, world, engine
        self._barrier, self._keep, self._keep_every, self._timeout = barrier, keep, keep_every, timeout
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self.step = -1
        """The last one that was saved by this writer."""
        atexit.register(self._last_word)

    def save(self, step: int, pieces: Pieces, extra: dict[str, Any], score: float | None = None) -> None:
        """Copy `pieces` and begin to write them as the checkpoint of `step`; first waits for a write that still runs.

        `extra` is JSON that the loop wants back. With a higher `score` than those before, the checkpoint is the best.
        Of both, those of process 0 count.

        Raises:
            CheckpointError: the write before this one failed, or this one cannot begin: in every process.
        """
        partial = folder_of(self.run, step).with_suffix(".partial")
        failure: Exception | None = None
        try:
            self.wait()
            if self.rank == 0:
                begin(partial)
        except OSError as error:
            failure = _failure(partial, error)
        except Exception as error:
            failure = error
        self._barrier()  # after a failure as well: the others stand there
        if failure is not None:
            raise failure
        try:
            attempt = begun(partial)
        except CheckpointError as error:
            raise _failure(partial, error) from error
        self.step, self._attempt = step, (partial, attempt)
        state = {"step": step, "world": self.world, "engine": self.engine, "extra": extra}
        self._pending = self._pool.submit(self._write, partial, attempt, state, score, *_snapshot(pieces))

    def check(self) -> None:
        """Raise CheckpointError if the last write has failed; does not wait for it."""
        if self.failed:
            self.wait()

    @property
    def failed(self) -> bool:
        """Whether `check` would raise: a flag that processes can agree on before one of them leaves."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def close(self) -> None:
        """Wait for the last write. Raises CheckpointError if it failed."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            atexit.unregister(self._last_word)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self.rank == 0 and self._pending is not None:
            self._do_without(self._pending)
        try:
            self.close()
        except CheckpointError as error:
            if kind is None:
                raise
            console.print(f"[red]{error}", soft_wrap=True)  # and the error that is under way goes on

    def _do_without(self, pending: Future[None]) -> None:
        """The run ends with an error: maybe the others are gone, and will not write their files."""
        wait([pending], timeout=UNWIND)
        for rank in range(1, self.world):
            if not pending.done():
                give_up(*self._attempt, rank, "the run ended before it had written its files")

    def _last_word(self) -> None:
        """At the interpreter's end, which has waited for the write: nobody is left to ask."""
        if self.failed and self._pending is not None:
            console.print(f"[red]{self._pending.exception()}", soft_wrap=True)

    def wait(self) -> None:
        """Wait for the last write. Raises CheckpointError if it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(
        self,
        partial: Path,
        attempt: str,
        state: dict[str, Any],
        score: float | None,
        copies: Pieces,
        copied: torch.cuda.Event | None,
    ) -> None:
        """The background's part."""
        try:
            if copied is not None:
                copied.synchronize()
            write_part(partial, attempt, self.rank, self.world, copies)
            if self.rank == 0:
                commit(partial, attempt, state, self._timeout)
                settle(self.run, state["step"], score, self._keep, self._keep_every)
        except Exception as error:
            give_up(partial, attempt, self.rank, _cause(partial, error))
            if not isinstance(error, (OSError, CheckpointError)):  # a mistake in code: keep its traceback
                raise
            raise _failure(partial, error) from error


def _snapshot(pieces: Pieces) -> tuple[Pieces, torch.cuda.Event | None]:
    """Copies in the CPU's memory; those from a GPU are complete once the event has passed."""
    copies, cuda = {}, False
    for name, piece in pieces.items():
        source = piece.values.detach()
        cuda = cuda or source.is_cuda
        copy = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
        copies[name] = Piece(copy.copy_(source, non_blocking=source.is_cuda), piece.shape, piece.start)
    if not cuda:
        return copies, None
    copied = torch.cuda.Event()
    copied.record()
    return copies, copied


def _cause(partial: Path, error: Exception) -> str:
    """In one line; a write to a full disk knows of no file."""
    return f"{error.filename or partial}: {error.strerror}" if isinstance(error, OSError) else str(error)


def _failure(partial: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{partial.stem} was not written: {_cause(partial, error)}; older checkpoints are whole")
