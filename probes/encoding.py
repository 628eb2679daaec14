"""The tokens that one row of the table needs, for one seed: of the clips as drawn, and as tasks change them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from jepa.models.encoder import EncoderConfig
from jepa.probes import features
from jepa.probes.clips import ClipSet, load_clips, unlabelled
from jepa.probes.store import Store, open_store
from jepa.probes.tasks import TASKS
from jepa.runs import encoder_config

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
    encoder: str  # folder of the pre-training run
    image: tuple[str, str]  # name and weights of the row `features.IMAGE`
    clips: Mapping[str, Path]
    held_out: tuple[int, ...]
    makes: tuple[str, ...]  # tasks that change clips
    cache: Path
    share: tuple[int, int] = (0, 1)


def encode(job: Encoding) -> Tokens:
    """Write this process's share of all tokens; where they lie."""
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


def shown(part: str, clips: ClipSet) -> Tensor:
    """The frames (B, T, 3, h, w) of a part of the clips."""
    make = TASKS[part].make if part else None
    return make(clips.frames, clips.coins)[0] if make else clips.frames


def _pixels(job: Encoding, clips: dict[str, ClipSet]) -> Tokens:
    """Raw pixels as tokens as wide as the encoder's: the same probe, and the same budget. float32, as they are."""
    shape = encoder_config(job.encoder)

    def pixels(frames: Tensor) -> Tensor:
        return features.pixel_tokens(frames, shape.patch, shape.tubelet)

    axes: Tensor | None = None
    found: Tokens = {side: {} for side in clips}
    for side, part in product(clips, (DRAWN, *job.makes)):
        frames = shown(part, clips[side])
        store = _pixel_store(job, shape, side, part, frames)
        if axes is None and not store.complete:
            learned = ~torch.isin(clips["train"].episodes, torch.tensor(job.held_out))
            axes = features.principal_axes(pixels(clips["train"].frames[learned]), shape.width)
        features.fill(store, frames, lambda chunk, axes=axes: pixels(chunk) @ axes, job.share)
        found[side][part] = store.folder
    return found


def _pixel_store(job: Encoding, shape: EncoderConfig, side: str, part: str, frames: Tensor) -> Store:
    tokens = math.prod(shape.grid(frames.shape[1], *frames.shape[-2:]))
    width = min(shape.width, 3 * shape.tubelet * shape.patch**2)
    key = {
        "clips": unlabelled(job.clips[side]).stem,
        "part": part,
        "axes of": [unlabelled(job.clips["train"]).stem, list(job.held_out)],
        "patch": [shape.tubelet, shape.patch],
    }
    return open_store(job.cache / "tokens", key, len(frames), (tokens, width), torch.float32)
