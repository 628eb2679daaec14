"""Repeats reads that fail, with growing pauses, and tells in one line what stays unreadable."""

import time
from collections.abc import Callable
from typing import TypeVar

from jepa.data.errors import DataError

RETRY_SECONDS = (0.1, 0.4, 1.6)
"""Pauses before the second, third, … try."""

ALL_LOST = 4  # reads in a row that fail for good: then the storage is gone, and to wait for each file would only delay

T = TypeVar("T")


class Retry:
    """Repeats a failed read after each pause of RETRY_SECONDS; a file that failed every time then gets one try only.

    So a lost shard costs its pauses once per process, not once per sample; and where all storage is lost, the first
    reads in a row alone are waited for. `errors` is what another try may mend.
    """

    def __init__(self, location: str, errors: type[Exception]) -> None:
        self.location, self.errors = location, errors
        self._lost: set[str] = set()
        self._failed_in_a_row = 0

    def __call__(self, name: str, read: Callable[[], T]) -> T:
        """What `read` returns, which reads of the file `name`.

        Raises:
            DataError: the last try failed too, or `read` says that no other try can do better.
        """
        pauses = () if name in self._lost or self._failed_in_a_row >= ALL_LOST else RETRY_SECONDS
        for tries, pause in enumerate((*pauses, None), start=1):
            try:
                result = read()
            except DataError:
                raise  # would be the same again
            except self.errors as error:
                if pause is None:
                    self._lost.add(name)
                    self._failed_in_a_row += 1
                    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                    where = f"{self.location}/{name}".rstrip("/")
                    raise DataError(f"{where}: cannot be read: {reason} (tries: {tries})") from error
                time.sleep(pause)
            else:
                self._lost.discard(name)
                self._failed_in_a_row = 0
                return result
        raise AssertionError("the last try returns or raises")


def complete(data: bytes, size: int) -> bytes:
    """`data`, if it has `size` bytes.

    Raises:
        OSError: it has more or fewer.
    """
    if len(data) != size:
        raise OSError(f"cut off: {len(data)} of {size} bytes")
    return data
