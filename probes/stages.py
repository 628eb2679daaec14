"""The stages of a probe run: decode clips, encode them, and the jobs that probe them; shared out over processes."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.progress import Progress

from jepa.probes.clips import ClipSpec, Episodes, folds, make_clips
from jepa.probes.config import KINDS, ProbeConfig
from jepa.probes.encoding import DRAWN, Encoding, Tokens, encode
from jepa.probes.features import IMAGE, MAKERS
from jepa.probes.jobs import CHANCE, SIDES, Job
from jepa.probes.pool import run_jobs, together
from jepa.probes.tasks import TASKS
from jepa.runs import encoder_config
from jepa.training import first_alone

Divisions = list[dict[int, tuple[int, ...] | None]]
"""For each fold, by seed, the episodes that are held out; None where the sides are apart as they are."""


def decode(
    config: ProbeConfig, split: dict[str, Episodes], bar: Progress, accelerator: Accelerator
) -> dict[str, dict[int, Path]]:
    """Files of clips by side and seed, decoded by the first process."""
    size = config.size or encoder_config(config.encoder).size
    found: dict[str, dict[int, Path]] = {}
    for side, per_episode in zip(SIDES, (config.clips_train, config.clips_test), strict=True):
        spec = ClipSpec(config.frames, config.fps, size, per_episode, config.max_clips)
        line = bar.add_task(f"decode {side} clips", total=len(split[side].ids), figures="")

        def show(done: int, line: Any = line) -> None:
            bar.update(line, completed=done)

        make = partial(make_clips, Path(config.out) / "cache", split[side], spec, config.probe_seeds(), show)
        first_alone(accelerator, make)
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
    clips: dict[str, dict[int, Path]],
    tasks: list[str],
    divided: Divisions,
    accelerator: Accelerator,
    run: Callable[[str, Callable[[Encoding], Tokens], list[Encoding]], list[Tokens]],
) -> dict[tuple[str, int, int], Tokens]:
    """Where the tokens of (row, seed, fold) lie, encoded by `run`: `each` of a bar and a pool.

    Raw pixels, which are narrowed by what varies in the train clips, differ by fold.
    """
    image, cache = (config.image_encoder, config.weights), Path(config.out) / "cache"
    makes = tuple(name for name in tasks if TASKS[name].make)
    share = (accelerator.process_index, accelerator.num_processes)
    keys = [
        (maker, seed, fold)
        for maker in reversed(MAKERS)  # the slow ones first
        if maker != IMAGE or config.image_encoder
        for seed in config.probe_seeds()
        for fold in range(len(divided) if maker == "pixels" else 1)
    ]
    encodings = [
        Encoding(
            *(maker, seed, config.encoder, image, {side: clips[side][seed] for side in SIDES}),
            *(divided[fold][seed] or (), makes, cache, share),
        )
        for maker, seed, fold in keys
    ]
    where = together(accelerator, lambda: run("encode", encode, encodings))
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


def each(
    bar: Progress, pool: ProcessPoolExecutor | None, name: str, do: Callable[[Any], Any], jobs: Sequence[Any]
) -> list[Any]:
    """What `do` gives for each of the jobs, in their order; `name` says on the bar what is done."""
    line = bar.add_task(name, total=len(jobs), figures="")
    found = {}
    for number, result in run_jobs(do, jobs, pool):
        found[number] = result
        bar.advance(line)
    return [found[number] for number in range(len(jobs))]
