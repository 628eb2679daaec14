"""The published protocols on a labelled data set: `jepa probe benchmark PRESET [key=value …]`."""

import json
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from omegaconf import MISSING
from rich.console import Console
from rich.progress import Progress

from jepa.config import ConfigError, plugin, to_dict
from jepa.engines.base import agree
from jepa.engines.launch import launched
from jepa.logs import progress_bar
from jepa.probes.annotations.base import Annotated
from jepa.probes.features import IMAGE, make_encoder
from jepa.probes.published import benchmark_report
from jepa.probes.published.benchmark_row import Row
from jepa.probes.published.floor import Encoders, measure
from jepa.probes.published.labelled import Labelled, label, read_annotations
from jepa.probes.published.protocol import Protocol, grid
from jepa.probes.published.reading import unread
from jepa.probes.published.views import Views
from jepa.runs import encoder_sha256
from jepa.status import write_json
from jepa.training import first_alone, join

AUGMENTS = ("paper", "none")
CACHES = ("none", "evaluation", "all")
ALWAYS = ("pretrained", "random_init")
"""The encoders that kNN always compares."""

FREE = ("out", "workers", "checkpoint_every", "rows", "knn_clips")
"""What may change when a row goes on: no figure of it depends on it."""

PATIENCE = 6 * 3600.0
"""Seconds that processes wait for each other: one alone surveys all files."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Attentive probes of a frozen encoder on videos (or images) with official labels, as V-JEPA 2 evaluates.

    `encoder` is the folder of a pre-training run, or a released model; `annotations` a reader of the data set's own
    lists; `out` gets the results. A clip is `frames` frames, each `frame_step` frames after the one before it, or, with
    `frame_step` 0, at `fps` a second. A video is `segments` clips; test shows each in `views` squares along its long
    side. The probe reads the tokens of all segments after the blocks `levels` (from 0; none: the encoder's output).

    Each (lr, weight_decay) pair is a head: a pooler of `depth` blocks and `heads` attention heads. All are trained for
    `epochs` on minibatches of `batch` videos, over all processes. The rate goes from `start_lr` to lr in `warmup`
    epochs, then to 0 by a cosine. `halving` > 0 drops the worse half of the heads that many times on the way.
    The best on a share `validation` of the training videos, whole groups of them, is chosen; test is read once.

    `augment` is paper (random crops, RandAugment, erasing; `hflip` also mirrors) or none. `cache` keeps features on
    disk: none, evaluation (validation and test), or all, which needs augment=none. `rows` are the encoders that get the
    whole protocol: pretrained, random_init, image. The last one is `image_encoder`, an image encoder of timm with
    `weights` (a .safetensors file, hub or random). kNN on pooled features of at most `knn_clips` training videos always
    compares pretrained, random_init and raw pixels. `limit` > 0 takes that many videos a side, for a dry run.

    Raises ConfigError for a value outside its range.
    """

    encoder: str = MISSING
    annotations: Any = plugin("jepa.probes.annotations", "csv")
    out: str = MISSING
    rows: tuple[str, ...] = ("pretrained",)
    image_encoder: str = ""
    weights: str = "hub"
    size: int = 256
    frames: int = 16
    frame_step: int = 4
    fps: float = 0.0
    segments: int = 1
    views: int = 1
    levels: tuple[int, ...] = ()
    depth: int = 4
    heads: int = 16
    epochs: int = 20
    batch: int = 256
    lr: tuple[float, ...] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    weight_decay: tuple[float, ...] = (0.01, 0.1, 0.4, 0.8)
    start_lr: float = 0.0
    warmup: float = 0.0
    halving: int = 0
    augment: str = "paper"
    hflip: bool = False
    cache: str = "none"
    validation: float = 0.1
    knn_clips: int = 10000
    limit: int = 0
    seed: int = 0
    workers: int = 8
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        if (self.frame_step > 0) == (self.fps > 0):
            raise ConfigError(f"frame_step {self.frame_step}, fps {self.fps:g}: give one of them, and 0 for the other")
        for key, known in (("augment", AUGMENTS), ("cache", CACHES)):
            if getattr(self, key) not in known:
                raise ConfigError(f"{key} '{getattr(self, key)}' is not one of {', '.join(known)}")
        if self.cache == "all" and self.augment != "none":
            raise ConfigError(
                f"cache all with augment {self.augment}: augmented clips differ in every epoch, so their features "
                "cannot be kept; set augment=none, or cache=evaluation"
            )
        for key in ("size", "frames", "segments", "views", "epochs", "batch", "checkpoint_every"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} {getattr(self, key)}: must be at least 1")
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation {self.validation:g}: must be between 0 and 1")
        if unknown := [row for row in self.rows if row not in (*ALWAYS, IMAGE)]:
            raise ConfigError(f"rows: '{unknown[0]}' is not one of {', '.join((*ALWAYS, IMAGE))}")
        if not self.rows or (IMAGE in self.rows) != bool(self.image_encoder):
            raise ConfigError(f"rows {list(self.rows)}: name at least one, and '{IMAGE}' together with image_encoder=…")


def run(config: BenchmarkConfig) -> dict[str, Any]:
    """The whole protocol for every row; writes and returns `out/benchmark.json`, and `out/report.html` beside it.

    What is done is not done again: the survey of the files, finished rows, steps up to the newest checkpoint, cached
    features. Any number of processes that were launched together share the work.

    Raises:
        ProbeError, DataError: annotations or videos. CheckpointError: no such encoder, or another run in `out`.
        Preempted: the run was asked to stop, and can go on.
    """
    started, out = time.monotonic(), Path(config.out)
    accelerator = Accelerator(**launched(PATIENCE))
    annotated = read_annotations(config.annotations, config.limit, config.seed)
    with progress_bar(disable=not accelerator.is_main_process) as bar:
        data = _labelled(config, annotated, accelerator, bar)
        encoders = {
            maker: make_encoder(maker, config.encoder, config.seed, (config.image_encoder, config.weights))
            for maker in dict.fromkeys((*ALWAYS, *config.rows))
        }
        _join(config, data, encoders, accelerator)
        rows = [Row(_protocol(config), data, encoders[maker], out / maker, accelerator, bar) for maker in config.rows]
        floor = _floor(config, data, encoders, accelerator, bar)
        results = [row.run() for row in rows]
    result = {
        "config": to_dict(config),
        "data": _described(data),
        "rows": results,
        "knn": floor,
        "knn_unread": unread(out, accelerator),
        "seconds": round(time.monotonic() - started, 1),
    }
    if accelerator.is_main_process:
        write_json(out / "benchmark.json", result)
        benchmark_report.write(result, data, out)
        benchmark_report.show(result, Console())
    accelerator.wait_for_everyone()
    return result


def _labelled(
    config: BenchmarkConfig, annotated: dict[str, Annotated], accelerator: Accelerator, bar: Progress
) -> Labelled:
    """Process 0 surveys the files; the others read what it found."""
    count = len({sample.video for side in annotated.values() for sample in side.samples})
    line = bar.add_task("look at the videos", total=count, figures="")
    parts = (annotated, Path(config.out) / "videos.jsonl", config.validation, config.seed)
    first_alone(accelerator, lambda: label(*parts, config.workers, lambda done: bar.update(line, completed=done)))
    return label(*parts, workers=0)


def _join(config: BenchmarkConfig, data: Labelled, encoders: Encoders, accelerator: Accelerator) -> None:
    """See that all processes do the same, and claim the folder of each row for it."""
    own = {key: value for key, value in to_dict(config).items() if key not in FREE}
    digests = {"fit": data.fit.digest, "validation": data.validation.digest, "test": data.test.digest}
    for maker in config.rows:
        weights = {"weights": encoder_sha256(encoders[maker])}
        join(accelerator, Path(config.out) / maker, own | weights, digests)


def _floor(
    config: BenchmarkConfig, data: Labelled, encoders: Encoders, accelerator: Accelerator, bar: Progress
) -> list[dict[str, Any]]:
    file, protocol = Path(config.out) / "knn.json", _protocol(config)
    wanted = {
        "clips": config.knn_clips,
        "shown": to_dict(protocol.shown),
        "data": [side.digest for side in (data.fit, data.validation, data.test)],
        "encoders": {name: encoder_sha256(encoder) for name, encoder in encoders.items()},
        "seed": config.seed,
    }
    known = json.loads(file.read_text()) if file.is_file() else {}
    if agree([float(known.get("of") != wanted)], accelerator.device)[0] == 0:
        return known["rows"]
    rows = measure(
        data,
        encoders,
        protocol.shown,
        file.parent,
        accelerator,
        bar,
        clips=config.knn_clips,
        batch=config.batch,
        seed=config.seed,
        workers=config.workers,
    )
    if accelerator.is_main_process:
        write_json(file, {"of": wanted, "rows": rows})
    return rows


def _protocol(config: BenchmarkConfig) -> Protocol:
    return Protocol(
        shown=Views(**{f.name: getattr(config, f.name) for f in fields(Views)}),
        settings=grid(config.lr, config.weight_decay, config.start_lr, config.warmup / config.epochs),
        **{f.name: getattr(config, f.name) for f in fields(Protocol) if f.name not in ("shown", "settings")},
    )


def _described(data: Labelled) -> dict[str, Any]:
    sides = {"fit": data.fit, "validation": data.validation, "test": data.test}
    return {
        "videos": {name: len(side) for name, side in sides.items()},
        "groups": {name: len(side.groups.unique()) for name, side in sides.items()},
        "classes": len(data.classes),
        "not_in_fit": [data.classes[c] for c in range(len(data.classes)) if not (data.fit.labels == c).any()],
        "missing": {split: list(names) for split, names in data.missing.items()},
        "unread": data.unread,
    }
