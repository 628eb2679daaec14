"""Diving48 (Li et al., 2018), version 2: its JSON lists, the vocabulary of dives, and videos `<vid_name>.mp4`."""

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import MISSING

from jepa.probes.annotations.base import Annotated, Row, Split, assemble
from jepa.probes.kinds.base import ProbeError
from jepa.probes.published.annotation_files import field, read_json, videos_by_name


@dataclass(frozen=True)
class Config:
    """`vocab` is Diving48_vocab.json; `train` and `test` are Diving48_V2_train.json and Diving48_V2_test.json."""

    vocab: str = MISSING
    train: str = MISSING
    test: str = MISSING
    videos: str = MISSING


def read(config: Config, split: Split) -> Annotated:
    """Classes are the entries of the vocabulary. A group is a competition: the name without its last number.

    The official splits share competitions, but no dive.

    Raises:
        ProbeError: see `jepa.probes.annotations.base`.
    """
    classes = tuple(_words(config.vocab, entry) for entry in read_json(config.vocab, list))
    rows: dict[Split, list[Row]] = {
        "train": list(_rows(config.train, classes)),
        "test": list(_rows(config.test, classes)),
    }
    return assemble(rows, classes, split, videos_by_name(config.videos).get, listed=config.vocab)


def _words(path: str, entry: object) -> str:
    """A dive is take-off, somersault, twist and position."""
    if not isinstance(entry, list) or not all(isinstance(word, str) for word in entry):
        raise ProbeError(f"{path}: {entry!r} is not a list of words; give the data set's own file")
    return " ".join(entry)


def _rows(path: str, classes: tuple[str, ...]) -> Iterator[Row]:
    for number, entry in enumerate(read_json(path, list)):
        where = f"{path}, entry {number}"
        name, label = field(where, entry, "vid_name", str), field(where, entry, "label", int)
        yield Row(where, name, classes[label] if 0 <= label < len(classes) else str(label), name.rsplit("_", 1)[0])
