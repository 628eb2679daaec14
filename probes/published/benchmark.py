"""The published protocols on a labelled data set: `jepa probe benchmark PRESET [key=value …]`."""

import json
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from rich.progress import Progress

from jepa.config import to_dict
from jepa.engines.base import agree
from jepa.engines.launch import launched
from jepa.logs import progress_bar
from jepa.probes.annotations.base import Annotated
from jepa.probes.features import make_encoder
from jepa.probes.published import benchmark_report
from jepa.probes.published.benchmark_config import ALWAYS, FREE, BenchmarkConfig
from jepa.probes.published.benchmark_row import Row
from jepa.probes.published.floor import Encoders, measure
from jepa.probes.published.labelled import Labelled, label, read_annotations
from jepa.probes.published.protocol import Protocol, grid
from jepa.probes.published.reading import unread
from jepa.probes.published.views import Views
from jepa.runs import encoder_sha256
from jepa.status import write_json
from jepa.training import first_alone, join

PATIENCE = 6 * 3600.0
"""Seconds that processes wait for each other: one alone surveys all files."""


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
    trained = {f.sha256 for side in (data.fit, data.validation) for f in side.footage}
    return {
        "videos": {name: len(side) for name, side in sides.items()},
        "groups": {name: len(side.groups.unique()) for name, side in sides.items()},
        "classes": len(data.classes),
        "not_in_fit": [data.classes[c] for c in range(len(data.classes)) if not (data.fit.labels == c).any()],
        "test_in_train": [f.path for f in data.test.footage if f.sha256 in trained],
        "missing": {split: list(names) for split, names in data.missing.items()},
        "unread": data.unread,
    }
