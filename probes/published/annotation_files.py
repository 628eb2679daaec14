"""Reads the files that annotations come in, tables, lines and JSON, and finds videos by their names."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jepa.data.suffixes import VIDEO
from jepa.probes.kinds.base import ProbeError


def read_table(path: str, columns: Sequence[str], delimiter: str = ",") -> Iterator[tuple[str, dict[str, str]]]:
    """(where, values by column) of every row of a CSV file whose first line names its columns, `columns` among them.

    Raises:
        ProbeError: no such file, a column that is not there, a row with fewer or more fields, not text.
    """
    need_file(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, delimiter=delimiter, strict=True)
            if lacking := [name for name in columns if name not in (table.fieldnames or ())]:
                raise ProbeError(f"{path}: no column '{lacking[0]}' in its first line; it needs {', '.join(columns)}")
            for values in table:
                where = f"{path}, line {table.line_num}"
                if None in values or None in values.values():
                    raise ProbeError(f"{where}: not {len(table.fieldnames or ())} fields, as the first line has")
                yield where, values
    except (csv.Error, UnicodeDecodeError) as error:
        raise ProbeError(f"{path}: not a CSV file: {error}") from error


def read_lines(path: str) -> list[tuple[str, str]]:
    """(where, text) of every line that is not empty, without blanks around it; raises ProbeError."""
    need_file(path)
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ProbeError(f"{path}: not a text file: {error}") from error
    return [(f"{path}, line {number}", line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def read_json(path: str, kind: type[dict] | type[list]) -> Any:
    """The object or list of a JSON file.

    Raises:
        ProbeError: no such file, not JSON, another kind, or a key that is there twice.
    """
    need_file(path)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ProbeError(f"{path}: '{key}' is there twice; remove one")
            found[key] = value
        return found

    try:
        found = json.loads(Path(path).read_bytes(), object_pairs_hook=unique)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ProbeError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(found, kind):
        raise ProbeError(f"{path}: not a JSON {'object' if kind is dict else 'list'}; give the data set's own file")
    return found


def field(where: str, values: Any, key: str, kind: type) -> Any:
    """`values[key]`, of type `kind`; raises ProbeError where it is not there or of another."""
    value = values.get(key) if isinstance(values, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ProbeError(f"{where}: '{key}' is {value!r}, not {'text' if kind is str else f'of type {kind.__name__}'}")
    return value


def whole(where: str, column: str, text: str) -> int:
    """A number from 0; raises ProbeError where `text` is none."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise ProbeError(f"{where}: {column} '{text}' is not a whole number from 0")
    return number


def videos_by_name(folder: str) -> dict[str, Path]:
    """Every video file below `folder` by its name without suffix, or the first such by path; raises ProbeError."""
    need_folder(folder)
    found = {}
    for place, below, files in os.walk(folder, followlinks=True):
        below.sort()
        for name in sorted(files):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in VIDEO:
                found.setdefault(stem, Path(place, name))
    return found


def existing(path: str) -> Path | None:
    """The path, if there is such a file or folder."""
    return Path(path) if Path(path).exists() else None


def need_file(path: str) -> None:
    """Raises ProbeError if `path` is not a file."""
    if not Path(path).is_file():
        raise ProbeError(f"no such annotation file: '{path}'; give the path of the data set's own")


def need_folder(path: str) -> None:
    """Raises ProbeError if `path` is not a folder."""
    if not Path(path).is_dir():
        raise ProbeError(f"no such folder: '{path}'; give the folder of the data set's videos or images")
