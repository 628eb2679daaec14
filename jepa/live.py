"""Shows a training run as it goes on: the dashboard on a terminal, plain lines in a log file, `jepa watch` anywhere."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from jepa.config import ConfigError
from jepa.dashboard import line, panel
from jepa.figures import Figures, Record
from jepa.logs import console

REDRAWS = 2  # a second
GLANCE = 2.0  # seconds between two looks of `jepa watch`


class Tail:
    """The lines that a JSONL file got since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file, self._end = -1, 0

    def read(self) -> tuple[list[Record], bool]:
        """New records, and whether the file was written anew: then what was read before no longer counts.

        A last line that is not finished is left for the next look; one that is no JSON is left out.
        """
        try:
            file = self.path.open("rb")
        except OSError:  # not yet there, or a file system that is away for a moment
            return [], False
        with file:
            known = os.fstat(file.fileno())
            anew = known.st_ino != self._file or known.st_size < self._end
            self._file, self._end = known.st_ino, 0 if anew else self._end
            file.seek(self._end)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._end += len(whole)
        records = []
        for part in whole.splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(part))
        return records, anew


class Watched:
    """A run folder that is looked at again and again, by whoever can read it; the run itself writes the files."""

    def __init__(self, run: Path, name: str, total: int) -> None:
        self.run, self.name, self.total = run, name, total
        self.figures, self.alarms = Figures(), list[Record]()
        self._log, self._alarms = Tail(run / "log.jsonl"), Tail(run / "alarms.jsonl")

    def look(self) -> None:
        """Take in what was written since the last look."""
        records, anew = self._log.read()
        if anew:  # a resumed run drops what lies beyond its checkpoint
            self.figures = Figures()
        for record in records:
            self.figures.add(record)
        alarms, anew = self._alarms.read()
        self.alarms = alarms if anew else self.alarms + alarms

    def panel(self) -> RenderableType:
        """The dashboard as of now."""
        self.look()
        checkpoint, silent = newest_checkpoint(self.run), self._silent()
        return panel(self.name, self.figures, self.total, self.alarms, self.state, checkpoint, silent)

    def line(self) -> str:
        """The same in one plain line."""
        self.look()
        return line(self.name, self.figures, self.total)

    @property
    def state(self) -> str:
        """What status.json says: running, preempted, failed or done. Where there is none, the steps tell."""
        try:
            return str(json.loads((self.run / "status.json").read_text())["state"])
        except (OSError, ValueError, KeyError, TypeError):
            return "done" if self.figures.step >= self.total else "running"

    def _silent(self) -> float:
        try:
            return time.time() - (self.run / "log.jsonl").stat().st_mtime
        except OSError:
            return 0.0


class View:
    """What `live` hands to the loop."""

    def __init__(self, watched: Watched | None) -> None:
        self._watched = watched

    def update(self) -> None:
        """Say where the run is, in one line; on a terminal the dashboard says it by itself."""
        if self._watched:
            console.print(self._watched.line(), markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def live(name: str, out: Path, total: int, lead: bool) -> Iterator[View]:
    """Show the run in `out` while the block runs; only the `lead` process does.

    On a terminal a thread redraws the dashboard from the run's own files, so that a step pays nothing for it, and a
    resumed run shows its past. In a log file every `update` is a line. With JEPA_QUIET a terminal is left to the
    program that already draws on it.
    """
    watched = Watched(out, name, total)
    if lead and console.is_terminal and not os.environ.get("JEPA_QUIET"):
        with Live(console=console, get_renderable=watched.panel, refresh_per_second=REDRAWS):
            yield View(None)
    else:
        yield View(watched if lead and not console.is_terminal else None)


def watch(run: Path, once: bool = False) -> None:
    """Draw the dashboard of a run, wherever it runs, until it has ended; `once`: draw it and return.

    One that was preempted is expected to go on.

    Raises:
        ConfigError: the folder holds no training run.
    """
    watched, screen = open_run(run), Console()
    if once:
        screen.print(watched.panel())
        return
    with contextlib.suppress(KeyboardInterrupt), Live(console=screen, auto_refresh=False) as view:
        view.update(watched.panel(), refresh=True)
        while watched.state in ("running", "preempted"):
            time.sleep(GLANCE)
            view.update(watched.panel(), refresh=True)


def open_run(run: Path) -> Watched:
    """A run by its folder. Raises ConfigError where that holds no training run."""
    try:
        config = json.loads((run / "config.json").read_text())
        total = int(config["loop"]["steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{run} holds no training run: give the out=… of `jepa pretrain` or `jepa posttrain`"
        ) from error
    return Watched(run, f"{'posttrain' if 'world' in config else 'pretrain'} {run}", total)


def newest_checkpoint(run: Path) -> int | None:
    """The step of the newest finished checkpoint of a run."""
    states = (run / "checkpoints").glob(f"step_{'[0-9]' * 8}/state.json")  # written last
    steps = [int(state.parent.name.removeprefix("step_")) for state in states]
    return max(steps, default=None)
