"""Kinetics (Kay et al., 2017): its CSV lists, and videos named `<youtube_id>_<start>_<end>`, seconds in six digits."""

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import MISSING

from jepa.probes.annotations.base import Annotated, Row, Split, assemble
from jepa.probes.published.annotation_files import read_table, videos_by_name, whole


@dataclass(frozen=True)
class Config:
    """`train` and `test` are CSV files with columns label, youtube_id, time_start and time_end; split is not read.

    `videos` is searched to the bottom, so that folders of classes or splits may be there or not.
    """

    train: str = MISSING
    test: str = MISSING
    videos: str = MISSING


def read(config: Config, split: Split) -> Annotated:
    """Classes are the labels of train, sorted. A group is a video of YouTube, of which no part may be in both splits.

    Raises:
        ProbeError: see `jepa.probes.annotations.base`.
    """
    rows: dict[Split, list[Row]] = {"train": list(_rows(config.train)), "test": list(_rows(config.test))}
    classes = tuple(sorted({row.label for row in rows["train"]}))
    find = videos_by_name(config.videos).get
    return assemble(rows, classes, split, find, listed=config.train, source=lambda row: row.group)


def _rows(path: str) -> Iterator[Row]:
    for where, values in read_table(path, ("label", "youtube_id", "time_start", "time_end")):
        start, end = (whole(where, key, values[key]) for key in ("time_start", "time_end"))
        video = values["youtube_id"]
        yield Row(where, f"{video}_{start:06d}_{end:06d}", values["label"], video)
