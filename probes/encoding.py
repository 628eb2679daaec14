"""The tokens that one row of the table needs, for one seed: of the clips as drawn, and as tasks change them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from jepa.models.encoder import EncoderConfig
from jepa.probes import features
from jepa.probes.clips import ClipSet, load_clips, unlabelled
from jepa.probes.kinds.base import ProbeError
from jepa.probes.store import Store, digest, open_store
from jepa.probes.tasks import TASKS, Make
from jepa.runs import read_cache, write_cache

DRAWN = ""  # the part of the clips as they were drawn; a part of changed clips is named by its task

Tokens = dict[str, dict[str, Path]]
"""Side -> part -> the folder of a store."""


@dataclass(frozen=True)
class Encoding:
    """`maker` is one of `features.MAKERS`; `clips` are the files of this seed by side.

    `held_out` are episodes of the train side that nothing may be learned from: raw pixels are narrowed by what varies
    in the others. `share` is which of how many processes this is.
    """

    maker: str
    seed: int
    encoder: str  # a checkpoint's folder, or a released model
    shape: EncoderConfig  # its own
    image: tuple[str, str]  # name and weights of the row `features.IMAGE`
    clips: Mapping[str, Path]
    held_out: tuple[int, ...]
    makes: tuple[str, ...]  # tasks that change clips
    cache: Path
    share: tuple[int, int] = (0, 1)

    @property
    def axes(self) -> Path:
        """The file of the directions that pixels are narrowed to."""
        learned_from = [unlabelled(self.clips["train"]).stem, list(self.held_out)]
        pixels = [self.shape.tubelet, self.shape.patch, self.shape.width]
        return self.cache / f"axes-{digest(learned_from, pixels)}.safetensors"

    def pixel_store(self, side: str, part: str, frames: features.Frames) -> Store:
        """Of raw pixels, float32: tokens as wide as the encoder's, so that a probe has the same budget."""
        tokens = math.prod(self.shape.grid(frames.shape[1], *frames.shape[-2:]))
        width = min(self.shape.width, 3 * self.shape.tubelet * self.shape.patch**2)
        key = {"clips": unlabelled(self.clips[side]).stem, "part": part, "axes": self.axes.stem}
        return open_store(self.cache / "tokens", key, len(frames), (tokens, width), torch.float32)


@dataclass(frozen=True)
class Changed:
    """Clips as a task changes them, made when they are indexed: stands for their frames (B, T, 3, h, w)."""

    clips: ClipSet
    make: Make

    @property
    def shape(self) -> torch.Size:
        """As of a tensor."""
        return torch.Size((len(self), *self[torch.tensor([0])].shape[1:]))

    def __len__(self) -> int:
        return len(self.clips.frames)

    def __getitem__(self, ids: Tensor) -> Tensor:
        return self.make(self.clips.frames[ids], self.clips.coins[ids])[0]


def shown(part: str, clips: ClipSet) -> features.Frames:
    """The frames (B, T, 3, h, w) of a part of the clips."""
    make = TASKS[part].make if part else None
    return Changed(clips, make) if make else clips.frames


def find_axes(job: Encoding) -> None:
    """Write the directions in which pixels of train clips vary most, unless the file is there."""
    if job.axes.is_file():
        return
    clips = load_clips(job.clips["train"])
    learned = ~torch.isin(clips.episodes, torch.tensor(job.held_out))
    axes = features.pixel_axes(
        clips.frames, learned.nonzero()[:, 0], job.shape.patch, job.shape.tubelet, job.shape.width
    )
    write_cache(job.axes, job.axes.stem, {"axes": axes})


def encode(job: Encoding) -> Tokens:
    """Write this process's share of all tokens; where they lie. Those of pixels need what `find_axes` writes."""
    clips = {side: load_clips(path) for side, path in job.clips.items()}
    if job.maker == "pixels":
        return _pixels(job, clips)
    encoder = features.make_encoder(job.maker, job.encoder, job.seed, job.image)
    found: Tokens = {}
    for side, own in clips.items():
        drawn = features.cached_tokens(job.cache, encoder, job.clips[side], own.frames, DRAWN, job.share)
        found[side] = {DRAWN: drawn.folder}
        for task in job.makes:
            args = (job.clips[side], shown(task, own), task, job.share, (own.frames, drawn))
            found[side][task] = features.cached_tokens(job.cache, encoder, *args).folder
    return found


def _pixels(job: Encoding, clips: dict[str, ClipSet]) -> Tokens:
    cached = read_cache(job.axes, job.axes.stem)
    if cached is None:
        raise ProbeError(f"{job.axes}: not readable; remove it and run the same command again")
    read = partial(features.narrowed, patch=job.shape.patch, tubelet=job.shape.tubelet, axes=cached["axes"])
    found: Tokens = {side: {} for side in clips}
    for side, part in product(clips, (DRAWN, *job.makes)):
        frames = shown(part, clips[side])
        store = job.pixel_store(side, part, frames)
        features.fill(store, frames, read, job.share)
        found[side][part] = store.folder
    return found
