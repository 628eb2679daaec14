"""Probe a frozen encoder: `jepa probe PRESET [key=value …]`."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console

from jepa.agreement import check_agreement
from jepa.config import ConfigError, to_dict
from jepa.engines.launch import launched
from jepa.logs import progress_bar
from jepa.models.encoder import EncoderConfig
from jepa.probes import page, plots, predictions, report
from jepa.probes.clips import Episodes, open_split, too_short
from jepa.probes.config import ProbeConfig
from jepa.probes.jobs import SIDES, Job, work
from jepa.probes.labels import read_labels
from jepa.probes.pinned import pin, read_pinned
from jepa.probes.pool import open_pool
from jepa.probes.stages import Crew, check_grid, clip_spec, decode, divisions, encode_all, make_jobs
from jepa.probes.store import digest
from jepa.probes.tasks import TASKS, applicable, without_labels
from jepa.training import first_alone

RESULT = "probe.json"
FREE = ("workers", "out")  # what may change between two runs of one folder: no figure depends on it
SHOWN = 5  # episodes of a kind that are named
PATIENCE = 24 * 3600.0  # seconds that processes wait for each other: their shares are not of one length


def run(config: ProbeConfig) -> dict[str, Any]:
    """Measure every task for every row and seed; what was measured before is read. Every process of a launch calls it.

    Writes and returns `out/probe.json`; beside it plots, `predictions.safetensors` and `report.html`.

    Raises:
        ConfigError: `out` holds the results of another config, or of weights that are gone; clips that the encoder
            cannot cut into its tubelets.
        ProbeError, DataError, CheckpointError: shards, labels or encoder that do not fit together.
    """
    started = time.monotonic()
    accelerator = Accelerator(**launched(PATIENCE))
    check_agreement(to_dict(config), accelerator)
    out = Path(config.out)
    failed = out / "failed"
    first_alone(accelerator, lambda: _claim(out, config, failed))
    encoder = read_pinned(out)
    check_agreement(encoder.facts(), accelerator)
    split = _split(config)
    tasks, not_run = applicable(config.tasks, split["train"], split["test"])
    check_grid(config, encoder.shape, tasks)
    with progress_bar() as bar, open_pool(config.workers, accelerator.device) as pool:
        bar.disable = not accelerator.is_main_process
        crew = Crew(accelerator, pool, bar, failed)
        clips = decode(config, encoder.shape, split, crew)
        tasks, few = without_labels(tasks, [clips[side][seed] for side in SIDES for seed in config.probe_seeds()])
        divided = divisions(config, split["train"])
        tokens = encode_all(config, encoder, clips, tasks, divided, crew)
        jobs = make_jobs(config, clips, tokens, tasks, divided)
        crew.each("probe", work, jobs[accelerator.process_index :: accelerator.num_processes])

    result = {
        "config": to_dict(config),
        "encoder": encoder.facts(),
        "episodes": {side: len(episodes.ids) for side, episodes in split.items()},
        "skipped": _skipped(config, encoder.shape, split),
        "not_run": not_run | few,
    }
    test = {seed: digest(clips["test"][seed].stem, [d[seed] for d in divided]) for seed in config.probe_seeds()}

    def write() -> None:
        measured = _pooled(jobs)
        predictions.write(out / predictions.FILE, measured, test)
        classes = {name: _class_names(name, split["train"]) for name in tasks}
        found = result | report.summarise(measured, config.seed, classes)
        found["seconds"] = round(time.monotonic() - started, 1)
        (out / RESULT).write_text(json.dumps(found, indent=1, allow_nan=False))
        page.write_page(found, plots.draw(found, out), out)
        report.show(found, Console())

    first_alone(accelerator, write)
    return json.loads((out / RESULT).read_text())


def _claim(out: Path, config: ProbeConfig, failed: Path) -> None:
    """Make `out` ready: for this config alone, and for one encoder."""
    if config.frames < 1:
        raise ConfigError("frames=0: give the frames of a clip; only `jepa probe suite` takes those of the training")
    out.mkdir(parents=True, exist_ok=True)
    failed.unlink(missing_ok=True)  # of a run that was killed
    _check_unused(out, config)
    pin(config.encoder, out, out / RESULT)


def _check_unused(out: Path, config: ProbeConfig) -> None:
    """Results of another config are not written over."""
    if not (out / RESULT).is_file():
        return
    old, new = json.loads((out / RESULT).read_text())["config"], json.loads(json.dumps(to_dict(config)))
    changed = [key for key in new if key in old and key not in FREE and old[key] != new[key]]
    if changed:
        key = changed[0]
        raise ConfigError(
            f"{out} holds the results of another config ({key}: {old[key]} there, {new[key]} here); choose another "
            f"out=… or remove {out / RESULT}"
        )


def _split(config: ProbeConfig) -> dict[str, Episodes]:
    """The episodes of each side; with folds both sides are all of them."""
    train, test = open_split(config.shards_train, config.shards_test, config.seed)
    if config.folds:
        train = test = Episodes(train.manifest, tuple(range(len(train.manifest))))
    if config.labels:
        manifests = [train.manifest, *([test.manifest] if config.shards_test else [])]
        labels = read_labels(config.labels, manifests)
        train, test = replace(train, labels=labels), replace(test, labels=labels)
    return {"train": train, "test": test}


def _skipped(config: ProbeConfig, shape: EncoderConfig, split: dict[str, Episodes]) -> dict[str, Any]:
    """By side, how many episodes are shorter than a clip, and the keys of the first; nothing where there are none."""
    keys = {side: too_short(episodes, clip_spec(config, shape, side)) for side, episodes in split.items()}
    return {side: {"episodes": len(found), "keys": found[:SHOWN]} for side, found in keys.items() if found}


def _pooled(jobs: list[Job]) -> list[predictions.Predictions]:
    """What all jobs predicted, the folds of a probe, row and seed as one."""
    groups: dict[str, list[predictions.Predictions]] = {}
    for job in jobs:
        for one in predictions.read(job.file)[0]:
            groups.setdefault(one.key, []).append(one)
    return [predictions.pool(parts) for parts in groups.values()]


def _class_names(task: str, episodes: Episodes) -> tuple[str, ...]:
    """Names of a task's classes, where the shards or the labels give them."""
    name = TASKS[task].needs
    if episodes.labels and name in episodes.labels.arrays:
        return episodes.labels.classes
    return episodes.manifest.spec.labels.get(name, ())
