"""What a report reads: finds the parts of a run folder, and says in one sentence which part is missing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepa import logs
from jepa.data.index import Manifest

Records = list[dict[str, Any]]


class NotRunError(ValueError):
    """A part that the report wanted is not in the run folder; the message is one line."""


def read_json(path: Path, verb: str) -> Any:
    """The contents of a result file. Raises NotRunError, naming the verb that makes it."""
    if not path.is_file():
        raise NotRunError(f"there is no {path}; `jepa {verb}` writes it")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise NotRunError(f"{path} is not valid JSON ({error}); run `jepa {verb}` again") from error


def read_log(folder: Path, verb: str) -> Records:
    """The records of a training run. Raises NotRunError where there are none."""
    records = logs.read(folder / "log.jsonl")
    if not records:
        raise NotRunError(f"there is no log in {folder}; `jepa {verb}` writes one")
    return records


def pretrain_folder(run: Path) -> Path:
    """RUN/pretrain, or RUN itself where that is a pre-training run."""
    own = run / "config.json"
    if own.is_file() and isinstance(read_json(own, "pretrain").get("encoder"), dict):
        return run
    return run / "pretrain"


def shards(run: Path, split: str) -> Manifest:
    """The packed `train` or `heldout` episodes: those of the run folder, else those the pre-training read.

    Raises:
        NotRunError: the run has none. DataError: they are not there any more.
    """
    own = run / "shards" / split
    if own.is_dir():
        return Manifest.load(own)
    config = pretrain_folder(run) / "config.json"
    values = read_json(config, "pretrain") if config.is_file() else {}
    named = values.get("heldout") if split == "heldout" else values.get("data", {}).get("shards")
    if not named:
        raise NotRunError(f"the run names no {split} shards, and there is no {own}")
    return Manifest.load(named)


def series(records: Records, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of the records that have `key`."""
    found = [(r["step"], r[key]) for r in records if key in r]
    return [step for step, _ in found], [value for _, value in found]


def last(records: Records, key: str) -> float | None:
    """The newest value of `key`, None where it was never logged."""
    values = series(records, key)[1]
    return values[-1] if values else None


def stays_above_half(values: Sequence[float]) -> bool:
    """The first collapse criterion: no value is at or below half of the first."""
    return min(values) > values[0] / 2


def last_third(steps: Sequence[float], values: Sequence[float]) -> tuple[float, float] | None:
    """Means of the earlier and the later half of the values in the last third of a run.

    A middle value belongs to neither; None where the last third has fewer than two.
    """
    late = [v for s, v in zip(steps, values, strict=True) if s >= start_of_last_third(steps)]
    half = len(late) // 2
    return (sum(late[:half]) / half, sum(late[-half:]) / half) if half else None


def start_of_last_third(steps: Sequence[float]) -> float:
    """The step at which the last third of a run begins."""
    return max(steps) * 2 / 3
