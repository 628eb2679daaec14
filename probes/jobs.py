"""One task of one row for one seed (and fold): fit every probe of it, predict the clips that are held out."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa.config import build, to_dict
from jepa.probes import features, predictions
from jepa.probes.clips import FRAME_IDS, load_clips
from jepa.probes.encoding import DRAWN, shown
from jepa.probes.kinds.base import Features, Probe, ProbeError, score_sums
from jepa.probes.metrics import METRICS
from jepa.probes.predictions import Predictions
from jepa.probes.store import Rows, digest, reopen
from jepa.probes.tasks import TASKS, Chance

SIDES = ("train", "test")
CHANCE = "chance"


@dataclass(frozen=True)
class Job:
    """`maker` is one of `features.MAKERS`, or `chance`; `clips` and `tokens` (none for chance) are files by side.

    Of both sides' episodes those in `held_out` are tested and the others fitted; None: each side is all of its own.
    """

    maker: str
    seed: int
    task: str
    fold: int
    held_out: tuple[int, ...] | None
    clips: Mapping[str, Path]
    tokens: Mapping[str, Path]  # folders of stores
    kinds: Mapping[str, Any]  # configs of the probes, by file name
    results: Path

    @cached_property
    def file(self) -> Path:
        """Where its predictions are kept, named by all that they follow from, weights and data included."""
        kinds = {name: [type(kind).__module__, to_dict(kind)] for name, kind in self.kinds.items()}
        files = [[self.clips[side].name, self.tokens[side].name if self.tokens else ""] for side in SIDES]
        own = (self.maker, self.seed, self.task, self.fold, self.held_out)
        return self.results / f"{digest(*own, files, kinds, version('openjepa'))}.safetensors"


@dataclass(frozen=True)
class Side:
    """The clips of one side that have a target."""

    job: Job
    name: str
    rows: Tensor  # (B) int64, of the clips in the file
    targets: Tensor  # (B) or (B, O)
    episodes: Tensor  # (B)
    first: Tensor  # (B), frame that the clip starts at

    def read(self, view: str) -> Features:
        """What a probe sees of them."""
        job = self.job
        if job.maker == CHANCE:
            return Features(torch.zeros(len(self.rows), 1), self.episodes)
        store = reopen(job.tokens[self.name])
        if not store.complete:
            raise ProbeError(f"{store.folder}: features are missing; run the same command again")
        clips: Any = shown(job.task if TASKS[job.task].make else DRAWN, load_clips(job.clips[self.name]))
        tokens, frames = (Rows(values, self.rows) for values in (store.values, clips))
        # a tensor or rows of one on the disk: both are read by indexing
        values: Any = features.view(view, tokens, frames, job.maker)
        return Features(values, self.episodes)


def work(job: Job) -> Path:
    """Fit and predict with every probe of the task, unless the file of the job is there; returns it."""
    if job.file.is_file():
        return job.file
    train, test = (_side(job, side) for side in SIDES)
    if len(train.targets.unique(dim=0)) < 2:
        raise ProbeError(f"task '{job.task}', fold {job.fold + 1}: all train clips have one label; leave the task out")
    task, number = TASKS[job.task], list(TASKS).index(job.task)
    probes = ((CHANCE, ""),) if job.maker == CHANCE else task.probes
    found = []
    for i, (kind, view) in enumerate(probes):
        generator = np.random.default_rng((job.seed, number, i, job.fold))
        probe: Probe = Chance() if kind == CHANCE else build(job.kinds[kind], generator)
        probe.fit(train.read(view), train.targets)
        unseen = test.read(view)
        found.append(
            Predictions(
                *(job.task, kind, view, job.maker, job.seed),
                predicted=probe.predict(unseen),
                true=test.targets,
                episodes=test.episodes,
                first=test.first,
                best=_best_on_test(probe, unseen, test.targets, task.metric),
                chosen=(probe.chosen,),
                train_clips=len(train.rows),
            )
        )
    predictions.write(job.file, found, job.clips["test"].stem)
    return job.file


def _side(job: Job, name: str) -> Side:
    clips = load_clips(job.clips[name])
    targets, kept = TASKS[job.task].target(clips)
    if job.held_out is not None:
        tested = torch.isin(clips.episodes, torch.tensor(job.held_out))
        kept = kept & (tested if name == "test" else ~tested)
    if not kept.any():
        raise ProbeError(f"task '{job.task}', fold {job.fold + 1}: no {name} clip has a label; lower folds=…")
    first = clips.arrays[FRAME_IDS][:, 0]
    return Side(job, name, kept.nonzero()[:, 0], targets[kept], clips.episodes[kept], first[kept])


def _best_on_test(probe: Probe, unseen: Features, truth: Tensor, metric: str) -> Tensor | None:
    """What the head predicts that is best on the clips that are scored; None where there was no choice of heads."""
    predict_all = getattr(probe, "predict_all", None)
    heads = predict_all(unseen) if predict_all else []
    if len(heads) < 2:
        return None
    return max(heads, key=lambda predicted: float(METRICS[metric](score_sums(predicted, truth).sum(0))))
