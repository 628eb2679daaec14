"""The videos of a benchmark with their labels: surveyed, split by group, and loaded as training or tests see them."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa.data.errors import DataError
from jepa.data.transforms import generator
from jepa.probes.annotations.base import Annotated, Sample
from jepa.probes.kinds.base import ProbeError, split_episodes
from jepa.probes.published.footage import Footage, digest, footage_of, survey
from jepa.probes.published.views import Views, evaluation_clips, training_clips

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Side:
    """Videos that were surveyed without a fault, the class (B) int64 of each, and its group (B), a number."""

    footage: tuple[Footage, ...]
    labels: Tensor
    groups: Tensor

    def __len__(self) -> int:
        return len(self.footage)

    def rows(self, which: Tensor) -> "Side":
        """The rows chosen by a mask or by indices (B)."""
        index = torch.arange(len(self))[which]
        return Side(tuple(self.footage[i] for i in index), self.labels[index], self.groups[index])

    @property
    def names(self) -> list[str]:
        """What each row is called in lists of what went wrong."""
        return [f.path + (f" from frame {f.first}" if f.first else "") for f in self.footage]

    @property
    def digest(self) -> str:
        """A name for these videos with these labels."""
        return digest(self.footage, self.labels.tolist())


@dataclass(frozen=True)
class Labelled:
    """The sides of a benchmark: heads learn from `fit` and are chosen on `validation`, of other groups; then `test`.

    `missing` are videos that are annotated and not there, by split; `unread` those that cannot be read, and why.
    """

    fit: Side
    validation: Side
    test: Side
    classes: tuple[str, ...]
    missing: dict[str, tuple[str, ...]]
    unread: dict[str, str]


def read_annotations(config: Any, limit: int, seed: int) -> dict[str, Annotated]:
    """Both splits as the annotations plugin of `config` reads them; `limit` > 0 draws that many samples of each.

    Raises:
        ProbeError: what is wrong with an annotation.
    """
    read = importlib.import_module(type(config).__module__).read
    found = {split: read(config, split) for split in SPLITS}
    if limit > 0:
        for side, annotated in enumerate(found.values()):
            order = np.random.default_rng((seed, side)).permutation(len(annotated.samples))
            kept = tuple(annotated.samples[i] for i in sorted(order[:limit]))
            found[SPLITS[side]] = replace(annotated, samples=kept)
    return found


def label(
    annotated: dict[str, Annotated],
    file: Path,
    validation: float,
    seed: int,
    workers: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Labelled:
    """Survey the videos (kept in `file`), and carve a share `validation` of the training groups, drawn by `seed`.

    Raises:
        ProbeError: labels that are not one class a video, or a side of which no video can be read.
    """
    classes = annotated["train"].classes
    if isinstance(classes, dict):
        raise ProbeError("these annotations have several labels a video: use the protocol that is made for them")
    records = survey((s.video for side in annotated.values() for s in side.samples), file, workers, progress)
    unread: dict[str, str] = {}
    train, test = (_side(annotated[split].samples, records, unread) for split in SPLITS)
    for split, side in zip(SPLITS, (train, test), strict=True):
        if not len(side):
            raise ProbeError(f"no video of the {split} split can be read; the first: {next(iter(unread.items()))}")
    fit, held_out = split_episodes(train.groups, validation, np.random.default_rng(seed))
    missing = {split: annotated[split].missing for split in SPLITS}
    return Labelled(train.rows(fit), train.rows(held_out), test, classes, missing, unread)


@dataclass(frozen=True)
class Clips:
    """Loads videos as the encoder is to see them: a function of (epoch, row) that worker processes can take along."""

    side: Side
    shown: Views
    seed: int
    training: bool

    def __call__(self, epoch: int, row: int) -> tuple[Tensor, ...]:
        """(clips (V, S, T, 3, size, size) uint8,). Raises DataError where the video cannot be read."""
        footage = self.side.footage[row]
        if not self.training:
            return (evaluation_clips(footage, self.shown),)
        return (training_clips(footage, self.shown, generator(self.seed, epoch, row)),)


def _side(samples: Sequence[Sample], records: dict[str, Any], unread: dict[str, str]) -> Side:
    footage, labels, groups = [], [], []
    for sample in samples:
        try:
            footage.append(footage_of(sample, records[str(sample.video)]))
        except DataError as error:
            unread[str(sample.video)] = str(error)
            continue
        labels.append(sample.label)
        groups.append(sample.group)
    numbers = torch.from_numpy(np.unique(np.array(groups, str), return_inverse=True)[1])
    return Side(tuple(footage), torch.tensor(labels, dtype=torch.int64), numbers)
