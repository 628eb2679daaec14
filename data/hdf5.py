"""Read HDF5 files: whatever is wrong with one is a DataError."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jepa.data.errors import DataError

if TYPE_CHECKING:
    import h5py


@contextmanager
def open_hdf5(path: Path) -> Iterator["h5py.File"]:
    """The open file.

    Raises:
        DataError: it cannot be opened, or is found to be damaged or to lack something while it is open.
        ModuleNotFoundError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ModuleNotFoundError("HDF5 files need h5py: pip install 'openjepa[robot]'") from error
    try:
        with h5py.File(path, "r", locking=False) as file:  # cluster file systems often cannot lock
            yield file
    except (OSError, RuntimeError, LookupError, AttributeError, TypeError) as error:  # damage, or an unexpected tree
        raise DataError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error


def read_array(group: "h5py.Group", name: str) -> np.ndarray:
    """The numbers of data set `name`; raises DataError where there is none of that name."""
    import h5py

    found = group.get(name)
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{Path(group.file.filename).name} has no data set '{group.name.rstrip('/')}/{name}'")
    return np.asarray(found[()])
