"""Lists of any data set as V-JEPA 2 reads them: one line `path label` per video or image, without a header."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from jepa.probes.annotations.base import Annotated, Row, Split, assemble
from jepa.probes.kinds.base import ProbeError
from jepa.probes.published.annotation_files import existing, read_lines, whole


@dataclass(frozen=True)
class Config:
    """`train` and `test` are the lists; a relative path in them starts at the list's own folder."""

    train: str = MISSING
    test: str = MISSING


def read(config: Config, split: Split) -> Annotated:
    """Classes are the numbers from 0 to the highest in train, and are called so. A group is a file.

    Raises:
        ProbeError: see `jepa.probes.annotations.base`.
    """
    rows: dict[Split, list[Row]] = {"train": list(_rows(config.train)), "test": list(_rows(config.test))}
    count = 1 + max((int(row.label) for row in rows["train"]), default=0)
    classes = tuple(str(number) for number in range(count))
    return assemble(rows, classes, split, existing, listed=config.train)


def _rows(path: str) -> Iterator[Row]:
    for where, line in read_lines(path):
        fields = line.rsplit("::", 1) if "::" in line else next(csv.reader([line], delimiter=" "))
        if len(fields) != 2:
            raise ProbeError(f"{where}: not 'path label'; put '::' between them where the path has spaces")
        name, label = fields[0], str(whole(where, "label", fields[1]))
        file = str(Path(path).parent / name)
        yield Row(where, file, label, file)
