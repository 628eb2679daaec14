"""What a run tells of itself: its log, alarms and trackers, and the line or dashboard that people look at."""

import math
from collections import deque
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import Accelerator

from jepa.alarms import Alarm, AlarmConfig, Alarms, is_spike
from jepa.live import live
from jepa.logs import JsonLines, console, read


class Journal:
    """The records of a run in `out`, while it is entered; of several processes the main one keeps it.

    It begins after step `done`: what the files have beyond that is dropped, as the run comes by once more.
    """

    def __init__(
        self, name: str, out: Path, total: int, accelerator: Accelerator, config: AlarmConfig, done: int
    ) -> None:
        self.out, self._accelerator, self._config = out, accelerator, config
        self._lead = accelerator.is_main_process
        self._view = live(name, out, total, self._lead)
        self._open(done)

    def _open(self, done: int) -> None:
        past = [record for record in read(self.out / "log.jsonl") if record["step"] <= done]
        losses = [record.get("loss", math.nan) for record in past]
        self._losses = deque(filter(math.isfinite, losses), self._config.window)  # in every process
        if self._lead:
            self._alarms = Alarms(self._config)
            self._alarms.replay(past)
            self._log = JsonLines(self.out / "log.jsonl", done or -1)
            self._alarms_log = JsonLines(self.out / "alarms.jsonl", done or -1)

    def __enter__(self) -> "Journal":
        self._accelerator.init_trackers("jepa")
        self._shown = self._view.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._view.__exit__(kind, error, at)
        self._close()
        self._accelerator.end_training()

    def _close(self) -> None:
        if self._lead:
            for file in (self._log, self._alarms_log):
                with suppress(OSError):  # of what a full disk has refused before
                    file.close()

    def write(self, step: int, record: dict[str, Any], show: bool) -> None:
        """Log the figures of a step and look at them for trouble; `show` them to trackers and people as well."""
        if math.isfinite(record.get("loss", math.nan)):
            self._losses.append(record["loss"])
        if not self._lead:
            return
        self._log.write({"step": step, **record})
        for alarm in self._alarms.look(step, record):
            self._tell(alarm)
        if show:
            self._accelerator.log(record, step=step)
            self._shown.update()

    def is_spike(self, loss: float) -> bool:
        """Whether `loss` is far above those of the last steps."""
        return is_spike(self._losses, loss, self._config)

    def go_back(self, step: int, why: str) -> None:
        """Drop what was written after `step`, from which the run goes on, and say `why`."""
        self._close()
        self._open(step)
        if self._lead:
            self._tell(Alarm("nonfinite", step, why))

    def _tell(self, alarm: Alarm) -> None:
        self._alarms_log.write(alarm._asdict())
        console.print(f"[yellow]step {alarm.step}: {alarm.text}", soft_wrap=True)
