"""What processes of a run tell each other of their progress, and whose fault it is when the run stands still."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SILENT = 120.0  # seconds without a heartbeat until a process counts as gone or stopped, where the timeout is longer
UNWIND = 20.0  # seconds that a process has to end by itself after another one left with an error

_BYTES = 4096  # of a record


@dataclass
class Seen:
    """What is known of one rank: its newest record, and the times, by the reader's clock, of changes in it.

    A record has `at`: [step, beats since its first], `host`, `pid`; once the process has left, `left`: its error, or
    nothing; and `verdict` where it left since another rank is at fault. `first` is what lay there before, maybe from
    an earlier attempt: only what differs from it counts.
    """

    first: Mapping[str, Any]
    record: Mapping[str, Any] | None = None
    heard: float = 0.0
    moved: float = 0.0

    def note(self, record: Mapping[str, Any], now: float) -> None:
        """Take in what the rank says at `now`, in seconds; {} where that cannot be read."""
        if record and record != (self.record or self.first):
            if self.record is None or record["at"] != self.record["at"]:
                self.moved = now
            self.record, self.heard = record, now

    def says(self, key: str) -> str | None:
        """`left` or `verdict` of its record, None where there is none."""
        return (self.record or {}).get(key)

    @property
    def position(self) -> tuple[int, int]:
        """How far it is, the least if it has not begun."""
        return tuple(self.record["at"]) if self.record else (-1, 0)

    def __str__(self) -> str:
        if self.record is None:
            return "has not begun"
        return f"on {self.record['host']}, process {self.record['pid']}, last heard at step {self.record['at'][0]}"


def judge(ranks: Mapping[int, Seen], now: float, timeout: float) -> str:
    """Why the run cannot go on, in one line that names the ranks whose fault it is; "" where it can.

    Of processes that wait for each other, the fault is with those that are least far, and only if none of them has
    moved for `timeout` seconds.
    """
    for seen in ranks.values():
        if verdict := seen.says("verdict"):
            return verdict
    for rank, seen in ranks.items():
        if (reason := seen.says("left")) and now - seen.heard > UNWIND:
            return left(rank, seen, reason)
    running = {rank: seen for rank, seen in ranks.items() if seen.says("left") is None}
    patience = {rank: min(timeout, SILENT) if seen.record else timeout for rank, seen in running.items()}
    if gone := [rank for rank, seen in running.items() if now - seen.heard > patience[rank]]:
        return silent(gone, ranks, now)
    least = min((seen.position for seen in running.values()), default=None)
    last = [rank for rank, seen in running.items() if seen.position == least]
    if last and (age := now - max(running[rank].moved for rank in last)) > timeout:
        return f"{_names(last, ranks)}: no progress for {age:.0f} s"
    return ""


def silent(gone: list[int], ranks: Mapping[int, Seen], now: float) -> str:
    """The line on ranks that send no heartbeat."""
    age = now - max(ranks[rank].heard for rank in gone)
    return f"{_names(gone, ranks)}: killed, stopped or cut off; no heartbeat for {age:.0f} s"


def left(rank: int, seen: Seen, reason: str) -> str:
    """The line on a rank that left with an error."""
    return f"{_names([rank], {rank: seen})}: left with {reason}"


def _names(ranks: list[int], seen: Mapping[int, Seen]) -> str:
    more = f" and {len(ranks) - 3} more" if len(ranks) > 3 else ""
    return "; ".join(f"rank {rank} ({seen[rank]})" for rank in ranks[:3]) + more


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Overwrite a record in place: that works on a full disk too, and is little work for a shared one."""
    data = json.dumps(record).encode().ljust(_BYTES)
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(file, data, 0)
    finally:
        os.close(file)


def read(path: Path) -> dict[str, Any]:
    """A record; {} where there is none, or half of one."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and {"at", "host", "pid"} <= record.keys() else {}
