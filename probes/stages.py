"""The stages of a probe run: decode clips, encode them, and the jobs that probe them; shared out over processes."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from rich.progress import Progress

from jepa.config import ConfigError
from jepa.models.encoder import EncoderConfig
from jepa.probes.clips import ClipSpec, Episodes, folds, make_clips
from jepa.probes.config import KINDS, ProbeConfig
from jepa.probes.encoding import DRAWN, Encoding, Tokens, encode, find_axes
from jepa.probes.features import IMAGE, MAKERS
from jepa.probes.jobs import CHANCE, SIDES, Job
from jepa.probes.kinds.base import ProbeError
from jepa.probes.pinned import Pinned
from jepa.probes.pool import elsewhere, run_jobs, together
from jepa.probes.tasks import TASKS
from jepa.training import first_alone

J = TypeVar("J")
R = TypeVar("R")

Divisions = list[dict[int, tuple[int, ...] | None]]
"""For each fold, by seed, the episodes that are held out; None where the sides are apart as they are."""


@dataclass(frozen=True)
class Crew:
    """The processes of a launch, the workers of this one, and where it shows what is done."""

    accelerator: Accelerator
    pool: ProcessPoolExecutor | None
    bar: Progress
    failed: Path  # a file that is there while a process has failed

    @property
    def share(self) -> tuple[int, int]:
        """Which of how many processes this is."""
        return self.accelerator.process_index, self.accelerator.num_processes

    def each(self, name: str, do: Callable[[J], R], jobs: Sequence[J]) -> list[R]:
        """What `do` gives for each of this process's jobs, in their order; `name` says on the bar what is done.

        Every process calls it. Where one fails the others end after the jobs that they are at.
        """
        line = self.bar.add_task(name, total=len(jobs), figures="")

        def run() -> dict[int, R]:
            found = {}
            for number, result in run_jobs(do, jobs, self.pool):
                found[number] = result
                self.bar.advance(line)
                if self.failed.exists():
                    raise elsewhere()
            return found

        found = together(self.accelerator, self.failed, run)
        return [found[number] for number in range(len(jobs))]


def clip_spec(config: ProbeConfig, shape: EncoderConfig, side: str) -> ClipSpec:
    """The clips of a side that an encoder of that shape is to see."""
    per_episode = {"train": config.clips_train, "test": config.clips_test}[side]
    return ClipSpec(config.frames, config.fps, config.size or shape.size, per_episode, config.max_clips)


def check_grid(config: ProbeConfig, shape: EncoderConfig, tasks: list[str]) -> None:
    """See that the encoder can cut the clips of every task into its tubelets. Raises ConfigError."""
    size = config.size or shape.size
    clip = torch.zeros(1, config.frames, 3, size, size, dtype=torch.uint8)
    makes = {name: make for name in tasks if (make := TASKS[name].make)}
    for name, make in ({"": None} | makes).items():
        try:
            frames = make(clip, torch.zeros(1, dtype=torch.float64))[0] if make else clip
            if frames.shape[1] % shape.tubelet:  # one frame too, of which an encoder makes an image
                raise ProbeError(f"{frames.shape[1]} frames cannot be cut into tubelets of {shape.tubelet}")
            shape.grid(frames.shape[1], *frames.shape[-2:])
        except ValueError as error:
            of = f" (task '{name}')" if name else ""
            raise ConfigError(f"frames={config.frames} size={size}{of}: {error}") from error


def decode(
    config: ProbeConfig, shape: EncoderConfig, split: dict[str, Episodes], crew: Crew
) -> dict[str, dict[int, Path]]:
    """Files of clips by side and seed, decoded by the first process."""
    found: dict[str, dict[int, Path]] = {}
    for side in SIDES:
        spec = clip_spec(config, shape, side)
        line = crew.bar.add_task(f"decode {side} clips", total=len(split[side].ids), figures="")

        def show(done: int, line: Any = line) -> None:
            crew.bar.update(line, completed=done)

        make = partial(make_clips, Path(config.out) / "cache", split[side], spec, config.probe_seeds(), show)
        first_alone(crew.accelerator, make)
        found[side] = make()
    return found


def divisions(config: ProbeConfig, train: Episodes) -> Divisions:
    """For each fold, by seed, the episodes that are held out; None where the sides are apart as they are."""
    if not config.folds:
        return [dict.fromkeys(config.probe_seeds())]
    by_seed = {seed: folds(train, config.folds, seed) for seed in config.probe_seeds()}
    return [{seed: parts[fold] for seed, parts in by_seed.items()} for fold in range(config.folds)]


def encode_all(
    config: ProbeConfig,
    encoder: Pinned,
    clips: dict[str, dict[int, Path]],
    tasks: list[str],
    divided: Divisions,
    crew: Crew,
) -> dict[tuple[str, int, int], Tokens]:
    """Where the tokens of (row, seed, fold) lie. Raw pixels, narrowed by what varies in train clips, differ by fold."""
    image, cache = (config.image_encoder, config.weights), Path(config.out) / "cache"
    makes = tuple(name for name in tasks if TASKS[name].make)
    keys = [
        (maker, seed, fold)
        for maker in reversed(MAKERS)  # the slow ones first
        if maker != IMAGE or config.image_encoder
        for seed in config.probe_seeds()
        for fold in range(len(divided) if maker == "pixels" else 1)
    ]
    encodings = [
        Encoding(
            *(maker, seed, encoder.path, encoder.shape, image, {side: clips[side][seed] for side in SIDES}),
            *(divided[fold][seed] or (), makes, cache, crew.share),
        )
        for maker, seed, fold in keys
    ]
    rank, world = crew.share
    crew.each("axes of pixels", find_axes, [job for job in encodings if job.maker == "pixels"][rank::world])
    where = crew.each("encode", encode, encodings)
    found = dict(zip(keys, where, strict=True))
    return {(m, s, fold): found.get((m, s, fold), found[m, s, 0]) for m, s, _ in keys for fold in range(len(divided))}


def make_jobs(
    config: ProbeConfig,
    clips: dict[str, dict[int, Path]],
    tokens: dict[tuple[str, int, int], Tokens],
    tasks: list[str],
    divided: Divisions,
) -> list[Job]:
    kinds = {name: getattr(config, name) for name in KINDS}
    keys = [*tokens, *((CHANCE, seed, fold) for seed in config.probe_seeds() for fold in range(len(divided)))]
    return [
        Job(
            *(maker, seed, task, fold, divided[fold][seed]),
            clips={side: clips[side][seed] for side in SIDES},
            tokens={
                side: parts[task if TASKS[task].make else DRAWN]
                for side, parts in tokens.get((maker, seed, fold), {}).items()
            },
            kinds={kind: kinds[kind] for kind, _ in TASKS[task].probes if maker != CHANCE},
            results=Path(config.out) / "jobs",
        )
        for maker, seed, fold in keys
        for task in tasks
    ]
