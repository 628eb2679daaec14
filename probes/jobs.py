"""One row of the table for one seed: encode its clips, fit and score every probe; and a pool for such jobs."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa.config import build
from jepa.probes import features
from jepa.probes.clips import ClipSet, load_clips
from jepa.probes.kinds.base import Features, Probe, score_sums
from jepa.probes.metrics import Array
from jepa.probes.tasks import TASKS, Chance, Task
from jepa.runs import encoder_config

SIDES = ("train", "test")
CHANCE = "chance"


@dataclass(frozen=True)
class Job:
    """`maker` is one of `features.MAKERS`, or `chance`; `clips` are the files of this seed by side."""

    maker: str
    seed: int
    encoder: str  # folder of the pre-training run
    clips: dict[str, Path]
    tasks: tuple[str, ...]
    kinds: dict[str, Any]  # configs of the probes, by file name
    cache: Path
    image: tuple[str, str] = ("", "hub")  # name and weights of the row `features.IMAGE`


@dataclass(frozen=True)
class Measured:
    """One probe on the test clips of one seed."""

    task: str
    kind: str
    view: str
    maker: str
    seed: int
    scores: dict[str, float]
    chosen: dict[str, float]
    sums: Array  # (B, S), see jepa.probes.metrics
    episodes: np.ndarray  # (B)
    train_clips: int


@dataclass(frozen=True)
class Side:
    """Clips with their tokens: as drawn, and with the clips that the coin chose played backwards."""

    clips: ClipSet
    tokens: dict[bool, Tensor]  # backwards? -> (B, K, D)

    def read(self, task: Task, view: str, maker: str) -> tuple[Features, Tensor]:
        """Features and targets of the clips that have a target."""
        targets, rows = task.target(self.clips)
        frames, backwards = self.clips.frames, self.clips.backwards
        if task.backwards:
            frames = torch.where(backwards[:, None, None, None, None], frames.flip(1), frames)
        values = torch.zeros(len(frames), 1)
        if maker != CHANCE:
            values = features.view(view, self.tokens[task.backwards], frames, maker)
        return Features(values[rows], self.clips.episodes[rows]), targets[rows]


def work(job: Job) -> list[Measured]:
    """Every probe of every task for one row and one seed."""
    train, test = (_side(job, job.clips[side]) for side in SIDES)
    if job.maker == "pixels":  # as wide as the encoder's: the same probe, and the same budget
        axes = features.principal_axes(train.tokens[False], encoder_config(job.encoder).width)
        train, test = (
            replace(side, tokens={backwards: x @ axes for backwards, x in side.tokens.items()})
            for side in (train, test)
        )
    found = []
    for name in job.tasks:
        task = TASKS[name]
        probes = ((CHANCE, ""),) if job.maker == CHANCE else task.probes
        for i, (kind, view) in enumerate(probes):
            generator = np.random.default_rng((job.seed, list(TASKS).index(name), i))
            probe: Probe = Chance() if kind == CHANCE else build(job.kinds[kind], generator)
            seen, targets = train.read(task, view, job.maker)
            probe.fit(seen, targets)
            unseen, truth = test.read(task, view, job.maker)
            sums = score_sums(probe.predict(unseen), truth, _classes(targets, truth))
            found.append(
                Measured(
                    task=name,
                    kind=kind,
                    view=view,
                    maker=job.maker,
                    seed=job.seed,
                    scores=probe.score(unseen, truth),
                    chosen=probe.chosen,
                    sums=sums,
                    episodes=unseen.episodes.numpy(),
                    train_clips=len(seen),
                )
            )
    return found


def run_jobs(jobs: Sequence[Job], workers: int) -> Iterator[list[Measured]]:
    """Results as they come: in this process for one worker, else in spawned ones of one thread each."""
    if workers <= 1:
        yield from map(work, jobs)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_one_thread) as pool:
        for future in as_completed([pool.submit(work, job) for job in jobs]):
            yield future.result()


def _one_thread() -> None:
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    torch.set_num_threads(1)
    threadpool_limits(1)


def _side(job: Job, path: Path) -> Side:
    clips = load_clips(path)
    if job.maker == CHANCE:
        return Side(clips, {})
    encoder = features.make_encoder(job.maker, job.encoder, job.seed, job.image)

    def tokens_of(frames: Tensor, part: str) -> Tensor:
        if job.maker == "pixels":
            return features.pixel_tokens(frames, encoder.config.patch, encoder.config.tubelet)
        return features.cached_tokens(job.cache, encoder, path, frames, part)

    tokens = {False: tokens_of(clips.frames, "forwards")}
    if any(TASKS[t].backwards for t in job.tasks):
        chosen = clips.backwards
        tokens[True] = tokens[False].clone()
        tokens[True][chosen] = tokens_of(clips.frames[chosen].flip(1), "backwards")
    return Side(clips, tokens)


def _classes(*targets: Tensor) -> int:
    """How many classes the targets of both sides have; 0 for values."""
    return int(torch.cat(targets).max()) + 1 if targets[0].ndim == 1 else 0
