"""ImageNet-1k (Russakovsky et al., 2015): a folder of images for each class; validation as well, or in one folder."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from jepa.data.suffixes import IMAGE
from jepa.probes.annotations.base import Annotated, Row, Split, assemble
from jepa.probes.kinds.base import ProbeError
from jepa.probes.published.annotation_files import existing, need_file, need_folder, read_lines, read_table


@dataclass(frozen=True)
class Config:
    """`train` holds a folder of images for each class. `test` does too, or, where `labels` is given, images alone.

    `labels` is LOC_val_solution.csv (columns ImageId and PredictionString), or ILSVRC2012_validation_ground_truth.txt
    of the development kit, with the kit's meta.mat beside it.
    """

    train: str = MISSING
    test: str = MISSING
    labels: str = ""


def read(config: Config, split: Split) -> Annotated:
    """Classes are the WordNet ids that have a folder in `train`, sorted. A group is a file.

    Raises:
        ProbeError: see `jepa.probes.annotations.base`; also a file of a class that is no image.
    """
    classes = tuple(_folders(config.train))
    test = _labelled(config.labels, config.test) if config.labels else _in_folders(config.test)
    rows: dict[Split, list[Row]] = {"train": list(_in_folders(config.train)), "test": list(test)}
    find = existing if config.labels and split == "test" else Path  # what was found by looking is there
    return assemble(rows, classes, split, find, listed=config.train)


def _folders(path: str) -> list[str]:
    need_folder(path)
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _in_folders(path: str) -> Iterator[Row]:
    for wnid in _folders(path):
        folder = os.path.join(path, wnid)
        for name in sorted(name for name in os.listdir(folder) if not name.startswith(".")):
            file = os.path.join(folder, name)
            if os.path.splitext(name)[1].lower() not in IMAGE:
                raise ProbeError(f"{file}: not an image; move it elsewhere")
            yield Row(folder, file, wnid, file)


def _labelled(labels: str, folder: str) -> Iterator[Row]:
    """The images of a folder without sub-folders, as a list says."""
    need_folder(folder)
    table = labels.endswith(".csv")
    for where, name, wnid in _solution(labels) if table else _ground_truth(labels):
        file = os.path.join(folder, f"{name}.JPEG")
        yield Row(where, file, wnid, file)


def _solution(path: str) -> Iterator[tuple[str, str, str]]:
    """A prediction is a class and its boxes, more than once where an image has several."""
    for where, values in read_table(path, ("ImageId", "PredictionString")):
        words = values["PredictionString"].split()
        if not words:
            raise ProbeError(f"{where}: PredictionString is empty")
        yield where, values["ImageId"], words[0]


def _ground_truth(path: str) -> Iterator[tuple[str, str, str]]:
    """Line i is the number of image i's class in meta.mat, which counts otherwise than the order of WordNet ids."""
    from scipy.io.matlab import MatReadError, loadmat

    meta = str(Path(path).with_name("meta.mat"))
    need_file(meta)
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wnids = {str(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    except (MatReadError, NotImplementedError, KeyError, ValueError, TypeError, IndexError) as error:
        raise ProbeError(f"{meta}: no table of synsets; give the development kit's own file") from error
    for image, (where, number) in enumerate(read_lines(path), 1):
        if number not in wnids:
            raise ProbeError(f"{where}: class '{number}' is not in {meta}; correct one of them")
        yield where, f"ILSVRC2012_val_{image:08d}", wnids[number]
