"""Clips of action anticipation: what is seen up to some time before an action, and which action it is."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jepa.data import transforms
from jepa.data.augment import rand_augment
from jepa.data.errors import DataError
from jepa.data.stream import Film, film_of
from jepa.interop.processor import evaluation_frames
from jepa.probes.annotations.base import Annotated, Sample
from jepa.probes.kinds.base import ProbeError, split_episodes
from jepa.probes.published.excerpt import excerpt
from jepa.probes.published.footage import Footage
from jepa.probes.published.labelled import SPLITS, Side
from jepa.probes.published.views import ASPECT, SCALE, erase

EARLIER = 0.25  # the largest share of an action by which the reference's training moves its anchor before the end


@dataclass(frozen=True)
class Observed:
    """What is seen: `frames` frames at `fps` a second and `size` px, that end `ahead` seconds before the anchor.

    Training draws that time from `ahead_train`. The anchor is the `start` of the action: none of it is seen. `end` is
    the reference's: the action's end, in training up to a quarter of the action earlier, and frames in whole steps of
    the video's own, so that their rate is a little above `fps`. With it most clips show a part of the action itself.
    """

    size: int = 256
    frames: int = 32
    fps: float = 8.0
    ahead: float = 1.0
    ahead_train: tuple[float, float] = (0.25, 1.75)
    anchor: str = "start"
    augment: str = "paper"


@dataclass(frozen=True)
class Actions:
    """The sides of an anticipation benchmark, with labels (B, 3), and the names of verbs, nouns and actions."""

    fit: Side
    validation: Side
    test: Side
    classes: dict[str, tuple[str, ...]]
    missing: dict[str, tuple[str, ...]]
    unread: dict[str, str]


def find_actions(annotated: Mapping[str, Annotated], validation: float, seed: int) -> Actions:
    """Look at the head of each video, and carve a share `validation` of the training videos, drawn by `seed`.

    Raises:
        ProbeError: labels without verb, noun and action and their time, or a side of which no video can be read.
    """
    classes = annotated["train"].classes
    if not isinstance(classes, dict):
        raise ProbeError("these annotations have one class a video: anticipation needs verb, noun and action")
    films: dict[Path, Film] = {}
    unread: dict[str, str] = {}
    for video in dict.fromkeys(s.video for split in SPLITS for s in annotated[split].samples):
        try:
            films[video] = film_of(video)
        except (DataError, OSError) as error:
            unread[str(video)] = str(error)
    train, test = (_side(annotated[split].samples, films) for split in SPLITS)
    for split, side in zip(SPLITS, (train, test), strict=True):
        if not len(side):
            raise ProbeError(f"no video of the {split} split can be read; the first: {next(iter(unread.items()))}")
    fit, held_out = split_episodes(train.groups, validation, np.random.default_rng(seed))
    missing = {split: annotated[split].missing for split in SPLITS}
    return Actions(train.rows(fit), train.rows(held_out), test, classes, missing, unread)


def clip_times(action: Footage, observed: Observed, ahead: float, earlier: float = 0.0) -> np.ndarray:
    """When the frames (T) of a clip are shown, in seconds from the video's first frame; 0 for those before it.

    The clip is the time up to the anchor minus `ahead`, in equal parts of which each is shown by its beginning: the
    next part would begin at the anchor minus `ahead`. `earlier` moves the anchor `end` back by that share.
    """
    parts = np.arange(observed.frames, 0, -1)
    if observed.anchor == "start":
        return (action.first / action.fps - ahead - parts / observed.fps).clip(min=0)
    start, stop = action.first, action.first + action.frames
    last = int(start * earlier + stop * (1 - earlier) - ahead * action.fps)
    return (last - parts * max(1, int(action.fps / observed.fps))).clip(min=0) / action.fps


@dataclass(frozen=True)
class ActionClips:
    """Loads what is seen before an action: a function of (epoch, row) that worker processes can take along."""

    side: Side
    observed: Observed
    seed: int
    training: bool

    def __call__(self, epoch: int, row: int) -> tuple[Tensor, Tensor]:
        """(frames (T, 3, size, size) uint8, seconds from their end to the anchor () float64).

        Training draws the seconds, for the anchor `end` how much earlier it lies, and then as `random_crop`,
        `rand_augment` and `erase` do. Raises DataError where the video cannot be read.
        """
        seen, action = self.observed, self.side.footage[row]
        if not self.training:
            return evaluation_frames(_read(action, clip_times(action, seen, seen.ahead)), seen.size), _number(
                seen.ahead
            )
        rng = transforms.generator(self.seed, epoch, row)
        ahead = float(rng.uniform(*seen.ahead_train))
        earlier = float(rng.uniform(0, EARLIER)) if seen.anchor == "end" else 0.0
        frames = _read(action, clip_times(action, seen, ahead, earlier))
        if seen.augment == "none":
            return evaluation_frames(frames, seen.size), _number(ahead)
        box = transforms.random_crop(*frames.shape[-2:], scale=SCALE, aspect=ASPECT, hflip=True, rng=rng)
        return erase(rand_augment(transforms.cut(frames, box, seen.size), rng), rng), _number(ahead)


def _read(action: Footage, times: np.ndarray) -> Tensor:
    """Frames (T, 3, h, w) uint8, a view of (T, h, w, 3)."""
    return torch.from_numpy(excerpt(Path(action.path), times.tolist())).permute(0, 3, 1, 2)


def _number(seconds: float) -> Tensor:
    return torch.tensor(seconds, dtype=torch.float64)


def _side(samples: Sequence[Sample], films: Mapping[Path, Film]) -> Side:
    footage, labels, groups = [], [], []
    for sample in (s for s in samples if s.video in films):
        if sample.start is None or sample.stop is None:
            raise ProbeError(f"{sample.video}: anticipation needs the time at which the action starts and stops")
        fps = films[sample.video].fps
        first, stop = round(sample.start * fps), round(sample.stop * fps)
        # Name and size stand for the bytes: these are hours of video, and reading all of it takes days.
        known = hashlib.sha256(f"{sample.video.name} {sample.video.stat().st_size}".encode()).hexdigest()
        footage.append(Footage(str(sample.video), first, max(1, stop - first), fps, None, known))
        labels.append(sample.label)
        groups.append(sample.group)
    numbers = np.unique(np.array(groups, dtype=str), return_inverse=True)[1]
    table = torch.tensor(labels, dtype=torch.int64).view(len(labels), 3)
    return Side(tuple(footage), table, torch.from_numpy(numbers))
