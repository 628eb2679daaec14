"""Something-Something v2 (Goyal et al., 2017): labels.json, train.json and validation.json, and videos `<id>.webm`."""

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import MISSING

from jepa.probes.annotations.base import Annotated, Row, Split, assemble
from jepa.probes.kinds.base import ProbeError
from jepa.probes.published.annotation_files import field, read_json, videos_by_name


@dataclass(frozen=True)
class Config:
    """`labels` numbers the templates, `train` and `test` (validation.json) have one for each video of `videos`.

    The labels of the official test set are not public.
    """

    labels: str = MISSING
    train: str = MISSING
    test: str = MISSING
    videos: str = MISSING


def read(config: Config, split: Split) -> Annotated:
    """Classes are the templates, in the order of their numbers. A group is a file: who filmed it is not said.

    Raises:
        ProbeError: see `jepa.probes.annotations.base`.
    """
    rows: dict[Split, list[Row]] = {"train": list(_rows(config.train)), "test": list(_rows(config.test))}
    find = videos_by_name(config.videos).get
    return assemble(rows, _classes(config.labels), split, find, listed=config.labels)


def _classes(path: str) -> tuple[str, ...]:
    numbers = {str(text): name for name, text in read_json(path, dict).items()}
    if set(numbers) != {str(i) for i in range(len(numbers))}:
        raise ProbeError(f"{path}: its classes are not numbered from 0 without gaps; give the data set's own file")
    return tuple(numbers[str(i)] for i in range(len(numbers)))


def _rows(path: str) -> Iterator[Row]:
    for number, entry in enumerate(read_json(path, list)):
        where = f"{path}, entry {number}"
        name, template = (field(where, entry, key, str) for key in ("id", "template"))
        yield Row(where, name, template.replace("[", "").replace("]", ""), name)
