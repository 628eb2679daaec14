"""Probes of an encoder that is still training: pooled features of a few fixed clips, scored on other episodes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jepa.data.config import DataConfig
from jepa.data.transforms import normalize
from jepa.health import OnlineProbeConfig
from jepa.models.encoder import Encoder
from jepa.probes.clips import ClipSet, ClipSpec, Episodes, load_clips, make_clips, open_split
from jepa.probes.features import BATCH
from jepa.probes.kinds import knn, linear, regression
from jepa.probes.kinds.base import Features, Probe, ProbeError
from jepa.probes.tasks import CLASSIFY, TASKS, Task, applicable

KINDS = {"knn": knn, "linear": linear, "regression": regression}
TRAIN_SHARE = 0.8  # of the episodes, and so of the clips


@dataclass(frozen=True)
class Side:
    """What is asked of the episodes of one side of the split."""

    frames: Tensor  # (B, T, 3, h, w) uint8
    episodes: Tensor  # (B)
    targets: Tensor  # (B) or (B, O)


def make(config: OnlineProbeConfig, data: DataConfig, seed: int, cache: Path) -> Callable[[Encoder], dict[str, float]]:
    """What scores an encoder: {"probe/linear": …, "probe/knn": …}, or "probe/regression" where values are asked for.

    Clips have the frames, rate and size of those trained on (of the longest, in a mixture). They are decoded once,
    into the folder `cache`. Clips, split and probes are functions of `seed`: the same encoder scores the same.

    Raises:
        DataError: `config.shards` is not a packed data set.
        ProbeError: an unknown task, labels that the shards lack or that are all the same, or videos that are too short.
    """
    split = open_split(config.shards, "", seed)
    task = _task(config.task, split)
    longest = max(data.parts, key=lambda part: part.frames)
    sides = []
    for episodes, share in zip(split, (TRAIN_SHARE, 1 - TRAIN_SHARE), strict=True):
        most = max(1, round(share * config.clips))
        spec = ClipSpec(longest.frames, longest.fps, data.size, config.per_episode, most)
        clips = load_clips(make_clips(cache, episodes, spec, [seed], lambda done: None)[seed])
        sides.append(_side(clips, task, f"{config.shards}: task '{config.task}'"))
    kinds = [kind for kind, view in task.probes if view == "pooled"]

    def score(encoder: Encoder) -> dict[str, float]:
        train, test = (Features(pooled(encoder, side.frames), side.episodes) for side in sides)
        scores = {}
        for number, kind in enumerate(kinds):
            probe: Probe = KINDS[kind].build(KINDS[kind].Config(), np.random.default_rng((seed, number)))
            probe.fit(train, sides[0].targets)
            scores[f"probe/{kind}"] = probe.score(test, sides[1].targets)[task.metric]
        return scores

    return score


@torch.no_grad()
def pooled(encoder: Encoder, frames: Tensor) -> Tensor:
    """uint8 frames (B, T, 3, h, w) -> mean over tokens (B, D), float32 on the CPU; computed where the encoder is."""
    like = next(encoder.parameters())
    parts = (normalize(part.to(like.device)).to(like.dtype) for part in frames.split(BATCH))
    return torch.cat([encoder(part).float().mean(1).cpu() for part in parts])


def _task(name: str, split: tuple[Episodes, Episodes]) -> Task:
    if name != "label":
        if name not in TASKS:
            raise ProbeError(f"probe.task '{name}' is not one of label, {', '.join(TASKS)}")
        applicable((name,), *split)
        return TASKS[name]
    manifest = split[0].manifest

    def target(clips: ClipSet) -> tuple[Tensor, Tensor]:
        labels = [manifest[i].label for i in clips.episodes.tolist()]
        values = torch.tensor([-1 if label is None else label for label in labels])
        return values.clamp(min=0), values >= 0

    return Task("class of the recording", target, "balanced_accuracy", CLASSIFY)


def _side(clips: ClipSet, task: Task, where: str) -> Side:
    targets, rows = task.target(clips)
    if len(targets[rows].unique(dim=0)) < 2:
        raise ProbeError(f"{where}: all clips of a side have one label; raise probe.clips, or ask another")
    frames = clips.frames[rows]
    if task.make:
        frames, _ = task.make(frames, clips.coins[rows])
    return Side(frames, clips.episodes[rows], targets[rows])
