"""One JSON line per logged step, trackers by name, and a live bar on the terminal."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jepa.config import ConfigError

console = Console(stderr=True)

TRACKERS = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "comet_ml": "comet-ml",
    "aim": "aim",
    "clearml": "clearml",
    "dvclive": "dvclive",
    "swanlab": "swanlab",
    "trackio": "trackio",
}
"""Trackers that accelerate can send figures to, each with the package to install; `log.jsonl` is always written."""


class JsonLines:
    """Appends records to a file; on resume, drops the lines beyond the step that is resumed from."""

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read(path) if line["step"] <= resume_step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.replace(path)
        self._file = path.open("a", buffering=1)

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a log; a last line cut by a kill is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def progress_bar(disable: bool = False) -> Progress:
    """The progress bar of every long verb: description, bar, count, time left and a line of figures."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=console,
        disable=disable or bool(os.environ.get("JEPA_QUIET")),  # of two programs side by side one draws
    )


def check_trackers(names: Sequence[str]) -> None:
    """Raises ConfigError for a name that is not one of TRACKERS, or whose package is not installed."""
    from accelerate.tracking import get_available_trackers

    installed = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in TRACKERS:
            known = ", ".join(TRACKERS)
            raise ConfigError(f"loop.trackers: '{name}' is not one of {known}; log.jsonl is always written")
        if name not in installed:
            raise ConfigError(f"loop.trackers: {name} is not installed; run `pip install {TRACKERS[name]}`")
