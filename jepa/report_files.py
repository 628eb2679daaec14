"""What a report reads: finds the parts of a run folder, and says in one sentence which part is missing."""

import importlib.metadata
import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepa import logs
from jepa.data.index import Manifest

Records = list[dict[str, Any]]

PACKAGES = ("openjepa", "torch", "accelerate", "numpy", "scikit-learn", "matplotlib", "decord2", "av", "mujoco")
PARTS = ("shards", "pretrain", "probe", "posttrain", "posttrain_random", "plan")


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


def kind(run: Path) -> str:
    """What a folder holds: `pretrain` or `posttrain` for one run, `demo` for the results of several verbs.

    Raises:
        NotRunError: none of them.
    """
    if (run / "config.json").is_file():
        config = read_json(run / "config.json", "pretrain")
        for verb, part in (("pretrain", "encoder"), ("posttrain", "world")):
            if isinstance(config, dict) and isinstance(config.get(part), dict):
                return verb
    if not any((run / part).is_dir() for part in PARTS):
        raise NotRunError(f"nothing to report in {run}: give the folder of `jepa pretrain`, `posttrain` or `demo`")
    return "demo"


def pretrain_folder(run: Path) -> Path:
    """RUN/pretrain, or RUN itself where that is a pre-training run."""
    return run if kind(run) == "pretrain" else run / "pretrain"


def shards(run: Path, split: str) -> Manifest:
    """The packed `train` or `heldout` episodes: those of the run folder, else those the run or its pre-training read.

    Raises:
        NotRunError: the run has none. DataError: they are not there any more.
    """
    own = run / "shards" / split
    if own.is_dir():
        return Manifest.load(own)
    config = (run if kind(run) == "posttrain" else pretrain_folder(run)) / "config.json"
    values = read_json(config, "pretrain") if config.is_file() else {}
    data = values.get("data", values)
    if split == "train" and data.get("mix"):
        raise NotRunError("the run reads a mixture of shards; `jepa data show` draws each of them")
    named = values.get("heldout") if split == "heldout" else data.get("shards")
    if not named:
        raise NotRunError(f"the run names no {split} shards, and there is no {own}")
    return Manifest.load(named)


def series(records: Records, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of the records that have `key`, where it is finite."""
    found = [(r["step"], r[key]) for r in records if key in r and math.isfinite(r[key])]
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


def versions() -> str:
    """What the report is written with, as a sentence."""
    found = [f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in PACKAGES)]
    return f"Report written with {', '.join(found)}, on {platform.system()} {platform.machine()}."


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
