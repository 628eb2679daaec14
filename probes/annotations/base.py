"""The contract of a reader of official annotations, and what readers share: from rows to samples, and the checks.

A reader is a file with a `Config`, which says where the data set's files are, and `read(config, split) -> Annotated`.
Both splits are read and checked, whichever is asked for. A mistake in an annotation is a ProbeError: one line that
names file and row, or file and key. A video that is not there is no mistake: `Annotated.missing` lists it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jepa.probes.kinds.base import ProbeError

Split = Literal["train", "test"]
UNSEEN = -1
"""The label of what no training sample shows."""
NAMED = 5  # of a long list, a message names this many


@dataclass(frozen=True, slots=True)
class Sample:
    """A labelled video: a file, or a folder of the frames as images in the order of their names.

    `label` is the number of its class, or one number for each head; `UNSEEN` where a class does not occur in train.
    Samples of a `group` (one source video, competition, …) are not independent: they stay on one side of a split. The
    action lies between `start` and `stop`, in seconds of the file; None: anywhere in it.
    """

    video: Path
    label: int | tuple[int, ...]
    group: str
    start: float | None = None
    stop: float | None = None


@dataclass(frozen=True)
class Annotated:
    """One split: the samples whose videos are there, and the names of the classes in the order of their numbers.

    `classes` is a dict, head -> names, where a label has several numbers. `missing` are the videos that are listed but
    not there, by the names they have in the annotation.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...] | dict[str, tuple[str, ...]]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One line of an annotation: `where` it stands, for messages, and what it calls the video and its class."""

    where: str
    name: str
    label: str
    group: str


def assemble(
    rows: Mapping[Split, Sequence[Row]],
    classes: tuple[str, ...],
    split: Split,
    find: Callable[[str], Path | None],
    *,
    listed: str,
    source: Callable[[Row], str] = lambda row: row.name,
) -> Annotated:
    """The samples of `split`; `find` gives the file of a video's name, and `listed` says where the classes come from.

    Raises:
        ProbeError: an empty split, a `source` (by default the video) in both, a video twice in test or with two
            classes, a label that is none of `classes` or a class without a training row, or a split none of whose
            videos is there.
    """
    check_apart({side: [(row.where, source(row)) for row in rows[side]] for side in rows})
    for side, own in rows.items():
        _check_once(own, side)
    number = {name: i for i, name in enumerate(classes)}
    for row in (row for side in rows.values() for row in side):
        if row.label not in number:
            raise ProbeError(f"{row.where}: class '{row.label}' is not in {listed}; correct one of them")
    shown = {row.label for row in rows["train"]}
    if gaps := [name for name in classes if name not in shown]:
        raise ProbeError(
            f"{listed}: {len(gaps)} of {len(classes)} classes have no clip in train ({few(gaps)}); complete train, or "
            "take them out"
        )
    files = {row.name: find(row.name) for row in rows[split]}
    samples = tuple(
        Sample(video, number[row.label], row.group) for row in rows[split] if (video := files[row.name]) is not None
    )
    return Annotated(samples, classes, check_found(files, split))


def check_apart(rows: Mapping[Split, Sequence[tuple[str, str]]]) -> None:
    """Both splits' (where, video): raises ProbeError where one is empty, or a video is in both."""
    for side, listed in rows.items():
        if not listed:
            raise ProbeError(f"the {side} split lists no clip; give the data set's whole {side} list")
    first = {video: where for where, video in reversed(rows["train"])}
    for where, video in rows["test"]:
        if video in first:
            raise ProbeError(f"{where}: video '{video}' is in train too ({first[video]}); take it out of one of them")


def _check_once(rows: Sequence[Row], side: Split) -> None:
    """A video twice in test would count twice, and with two classes it says nothing; raises ProbeError."""
    first: dict[str, Row] = {}
    for row in rows:
        before = first.setdefault(row.name, row)
        if before is not row and (side == "test" or before.label != row.label):
            raise ProbeError(f"{row.where}: video '{row.name}' is listed before ({before.where}); take one of them out")


def check_found(files: Mapping[str, Path | None], split: Split) -> tuple[str, ...]:
    """The names without a file; raises ProbeError where that is all of them."""
    missing = tuple(name for name, file in files.items() if file is None)
    if len(missing) == len(files):
        raise ProbeError(
            f"none of the {len(files)} videos of {split} is there ({few(missing)}); correct annotations.videos"
        )
    return missing


def few(names: Sequence[str]) -> str:
    """The first names of a list, and a mark where there are more."""
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
