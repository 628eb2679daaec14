"""Read .npy files that nobody vouches for: whole, from bytes, or a few rows at a time, from disk."""

import io
import math
import os
import warnings
import weakref
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jepa.data.errors import DataError


class Table:
    """An array on disk of which some rows are read at a time: nothing of it is held, whatever its size."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.dtype = dtype
        with path.open("rb") as file:
            try:
                shape, _, found = _read_header(file)
            except ValueError as error:
                raise DataError(f"{path}: damaged ({error}); pack the data again") from error
            self.start = file.tell()
        if found != dtype or len(shape) != 1:
            raise DataError(f"{path}: holds {shape} {found}; pack the data again")
        if path.stat().st_size != self.start + shape[0] * dtype.itemsize:
            raise DataError(f"{path}: cut off or too long; pack the data again")
        self.length = shape[0]
        self.file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.file)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.length)
        size = self.dtype.itemsize
        data = os.pread(self.file, max(0, stop - start) * size, self.start + start * size)
        return np.frombuffer(data, self.dtype)


def read_npy(data: bytes) -> np.ndarray:
    """An array from the bytes of an .npy file, never larger than they are whatever their header claims.

    Raises:
        ValueError: not the bytes of one array of numbers.
    """
    file = io.BytesIO(data)
    shape, fortran, dtype = _read_header(file)
    count = math.prod(shape)
    if dtype.hasobject or count * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"an array of {shape} {dtype} does not fit its {len(data)} bytes")
    array = np.frombuffer(data, dtype, count, file.tell()).copy()  # else it could not be written to
    return array.reshape(shape, order="F" if fortran else "C")


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran's order, and dtype of the array in an .npy file; ValueError if it has none."""
    version = np.lib.format.read_magic(file)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in header:
        raise ValueError(f"npy version {version} is not known")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged one may look like one of Python 2
            return header[version](file)
    except Exception as error:  # numpy reads it as Python, and lets through whatever Python says of it
        raise ValueError(f"no npy header: {type(error).__name__}") from error
