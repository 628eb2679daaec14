"""A list of videos and images with labels, as V-JEPA 2 reads it: one line `path label` per file, without a header.

Where a path has spaces, `path::label`. Relative paths start at the list's own folder.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from jepa.data.clip import Spec
from jepa.data.errors import DataError
from jepa.data.sources.base import Episode, Recording, Rejected, read_bytes, safe_key
from jepa.data.suffixes import IMAGE, VIDEO


def spec(path: Path) -> Spec:
    """Nothing is promised beyond pixels: a list does not name its classes."""
    _need_list(path)
    return Spec()


def recordings(path: Path) -> Iterator[Recording | Rejected]:
    """Every line of the list in its order: a recording, or the reason why not, with the line's number.

    Raises:
        DataError: `path` is not a file that can be read.
    """
    _need_list(path)
    first_line: dict[str, int] = {}
    # a path need not be UTF-8; `surrogateescape` keeps its bytes
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                name, label = _fields(line.strip())
                _need_medium(path.parent / name)
            except DataError as error:
                yield Rejected(f"{path.name}, line {number}", str(error))
                continue
            key = safe_key(name)
            if key in first_line:
                yield Rejected(f"{path.name}, line {number}", f"'{name}' is listed in line {first_line[key]} already")
                continue
            first_line[key] = number
            yield Recording(key, name, (label,))


def load(path: Path, recording: Recording) -> Episode:
    """The file's bytes as they are, with the line's label."""
    file = path.parent / recording.file
    label = recording.place[0]
    return Episode(read_bytes(file), file.suffix[1:].lower(), label=label, meta={"file": recording.file})


def _fields(line: str) -> tuple[str, int]:
    """Path and label of one line: separated by a space, or by `::` where that does not give the two."""
    try:
        by_space = next(csv.reader([line], delimiter=" "))
    except csv.Error as error:
        raise DataError(f"not readable: {error}") from error
    for fields in (by_space, line.rsplit("::", 1)):
        try:
            name, text = fields
            label = int(text)
        except ValueError:
            continue
        if not 0 <= label < 2**31:
            raise DataError(f"label {label} is no class: classes are counted from 0")
        return name, label
    raise DataError("not 'path label' with a whole number as label; put '::' between them if the path has spaces")


def _need_medium(file: Path) -> None:
    if file.suffix.lower() not in (*VIDEO, *IMAGE):
        raise DataError(f"'{file}' is neither a video nor an image (suffix '{file.suffix}')")
    if not file.is_file():
        raise DataError(f"no such file: '{file}'")


def _need_list(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"'{path}' is a folder; give the .csv file")
    if not path.is_file():
        raise DataError(f"no such file: '{path}'")
