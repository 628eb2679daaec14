"""Jester (Materzynska et al., 2019): its CSV lists, and a folder of frames `<id>/00001.jpg`, or a video, for each."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from jepa.data.suffixes import VIDEO
from jepa.probes.annotations.base import Annotated, Row, Split, assemble
from jepa.probes.kinds.base import ProbeError
from jepa.probes.published.annotation_files import need_folder, read_lines


@dataclass(frozen=True)
class Config:
    """`labels` has a gesture on each line, `train` and `test` (jester-v1-validation.csv) lines `id;gesture`.

    The labels of the official test set are not public.
    """

    labels: str = MISSING
    train: str = MISSING
    test: str = MISSING
    videos: str = MISSING


def read(config: Config, split: Split) -> Annotated:
    """Classes are the gestures, in the order of `labels`. A group is a video: who is in it is not said.

    Raises:
        ProbeError: see `jepa.probes.annotations.base`.
    """
    classes = tuple(line for _, line in read_lines(config.labels))
    rows: dict[Split, list[Row]] = {"train": list(_rows(config.train)), "test": list(_rows(config.test))}
    return assemble(rows, classes, split, _folders_and_videos(config.videos).get, listed=config.labels)


def _rows(path: str) -> Iterator[Row]:
    for where, line in read_lines(path):
        name, semicolon, gesture = line.partition(";")
        if not semicolon:
            raise ProbeError(f"{where}: '{line}' is not 'id;gesture'")
        yield Row(where, name, gesture, name)


def _folders_and_videos(folder: str) -> dict[str, Path]:
    """What lies in `folder`, by its name without suffix: no look is taken into each of 150,000 folders of frames."""
    need_folder(folder)
    with os.scandir(folder) as entries:
        found = {os.path.splitext(entry.name): Path(entry.path) for entry in entries}
    return {stem: path for (stem, suffix), path in found.items() if not suffix or suffix.lower() in VIDEO}
