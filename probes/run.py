"""Probe a frozen encoder: `jepa probe PRESET [key=value …]`."""

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from rich.console import Console
from rich.progress import Progress, TaskID

from jepa.config import plugin, to_dict
from jepa.logs import progress_bar
from jepa.probes import plots, report
from jepa.probes.clips import ClipSpec, make_clips, open_split
from jepa.probes.features import IMAGE, MAKERS
from jepa.probes.jobs import CHANCE, SIDES, Job, run_jobs
from jepa.probes.tasks import applicable, without_labels
from jepa.runs import encoder_config


@dataclass(frozen=True)
class ProbeConfig:
    """A probe run. `encoder` is the folder of a pre-training run, or a released model; `out` gets the results.

    `image_encoder` is the name of an image ViT of timm, one more row; its `weights` are a .safetensors file, `hub` or
    `random`. Without `shards_test` a fifth of the train episodes is the test set. `fps` 0 takes every frame,
    `size` 0 is the encoder's own. A probe seed draws the clips, the heads, the minibatches, the coin of the arrow
    of time and the random encoder. Every row has the same clips and budget.
    """

    encoder: str = MISSING
    image_encoder: str = ""
    weights: str = "hub"
    shards_train: str = MISSING
    shards_test: str = ""
    out: str = MISSING
    frames: int = 4
    fps: float = 0.0
    size: int = 0
    clips_train: int = 2  # an episode
    clips_test: int = 4  # an episode
    max_clips: int = 20000  # of either side
    seed: int = 0
    seeds: int = 3
    tasks: tuple[str, ...] = ("skill", "gripper", "object", "arrow")
    workers: int = 2
    attentive: Any = plugin("jepa.probes.kinds", "attentive")
    linear: Any = plugin("jepa.probes.kinds", "linear")
    knn: Any = plugin("jepa.probes.kinds", "knn")
    regression: Any = plugin("jepa.probes.kinds", "regression")


def run(config: ProbeConfig) -> dict[str, Any]:
    """Measure every task for every row and seed; writes and returns `out/probe.json`, draws `out/probe_*.png`.

    Raises:
        ProbeError, DataError, CheckpointError: shards, labels or encoder that do not fit together.
    """
    started = time.monotonic()
    out, cache = Path(config.out), Path(config.out) / "cache"
    size = config.size or encoder_config(config.encoder).size
    split = dict(zip(SIDES, open_split(config.shards_train, config.shards_test, config.seed), strict=True))
    tasks, not_run = applicable(config.tasks, split["train"], split["test"])
    seeds = range(config.seed, config.seed + config.seeds)
    image = (config.image_encoder, config.weights)
    kinds = {name: getattr(config, name) for name in ("attentive", "linear", "knn", "regression")}

    console = Console()
    with progress_bar() as bar:
        clips: dict[str, dict[int, Path]] = {}
        for side, per_episode in zip(SIDES, (config.clips_train, config.clips_test), strict=True):
            spec = ClipSpec(config.frames, config.fps, size, per_episode, config.max_clips)
            line = bar.add_task(f"decode {side} clips", total=len(split[side].ids), figures="")
            clips[side] = make_clips(cache, split[side], spec, seeds, partial(_completed, bar, line))
        tasks, few = without_labels(tasks, [clips[side][seed] for side in SIDES for seed in seeds])
        jobs = [
            Job(m, s, config.encoder, {d: clips[d][s] for d in SIDES}, tuple(tasks), kinds, cache, image)
            for m in (*reversed(MAKERS), CHANCE)  # the slow ones first
            if m != IMAGE or config.image_encoder
            for s in seeds
        ]
        line = bar.add_task("encode and probe", total=len(jobs), figures="")
        measured = []
        for found in run_jobs(jobs, config.workers):
            measured += found
            bar.advance(line)

    result = {
        "config": to_dict(config),
        "episodes": {side: len(episodes.ids) for side, episodes in split.items()},
        "not_run": not_run | few,
        **report.summarise(measured, config.seed),
        "seconds": round(time.monotonic() - started, 1),
    }
    (out / "probe.json").write_text(json.dumps(result, indent=1, allow_nan=False))
    plots.draw(result, out)
    report.show(result, console)
    return result


def _completed(bar: Progress, line: TaskID, count: int) -> None:
    bar.update(line, completed=count)
