"""Pre-train a video encoder: `accelerate launch -m jepa pretrain PRESET [key=value …]`."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from omegaconf import MISSING
from torch import nn

from jepa import checkpoint, health
from jepa.config import ConfigError, build, plugin, to_dict
from jepa.data.clip import Clip
from jepa.data.config import DataConfig, load_manifests
from jepa.data.loader import Clips, clips
from jepa.health import OnlineProbeConfig
from jepa.logs import JsonLines, console
from jepa.loop import train
from jepa.models.encoder import Encoder, EncoderConfig, build_encoder
from jepa.models.predictor import PredictorConfig
from jepa.objectives.base import Objective
from jepa.pieces import Read
from jepa.stages import begin_from
from jepa.throughput import clip_work
from jepa.training import LoopConfig, first_alone, join, make_accelerator, required


@dataclass(frozen=True)
class PretrainConfig:
    """A pre-training run. `data.shards` and `out` must be given; `heldout` are shards for the health figures.

    `batch_size` is that of a step, over all processes and `loop.accumulate` slices. A fresh run has its weights from
    `start_from`, a run or one of its checkpoints, and with `start_optimizer` AdamW's moments; its steps count from 0.
    With `probe.shards`, probes of the encoder go along; the checkpoint that they like best is kept.
    """

    out: str = MISSING
    heldout: str = ""
    heldout_clips: int = 512
    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    masks: Any = plugin("jepa.masks", "multiblock")
    objective: Any = plugin("jepa.objectives", "vjepa2")
    loop: LoopConfig = field(default_factory=LoopConfig)
    start_from: str = ""
    start_optimizer: bool = False
    batch_size: int = 24
    probe: OnlineProbeConfig = field(default_factory=OnlineProbeConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.probe.shards and self.probe.every % self.loop.measure_every:
            raise ConfigError(
                f"probe.every {self.probe.every} must be a multiple of {self.loop.measure_every}, loop.measure_every"
            )


MakeProbe = Callable[[OnlineProbeConfig, DataConfig, int, Path], Callable[[Encoder], dict[str, float]]]
"""(config, data, seed, folder for a cache) -> what scores an encoder, by figures `probe/…`."""


def run(config: PretrainConfig, make_probe: MakeProbe | None = None) -> None:
    """Train to `loop.steps`, resuming from the newest valid checkpoint of `out`; `make_probe` serves `config.probe`."""
    if not config.data.mix:
        required(config.data.shards, "data.shards")
    manifests = load_manifests(config.data)
    encoder = build_encoder(config.encoder, config.seed)
    masks = build(config.masks, config.seed)
    generator = torch.Generator().manual_seed(config.seed + 1)
    objective = build(config.objective, encoder, config.predictor, masks, generator)
    moments = start(config, objective)

    out = Path(config.out)
    accelerator = make_accelerator(config.out, config.loop)
    join(accelerator, out, to_dict(config), {manifest.location: manifest.sha256 for manifest in manifests})

    def batches(done: int) -> Iterator[Clip]:
        rank, world = accelerator.process_index, accelerator.num_processes
        feed = clips(
            manifests,
            config.data,
            batch_size=config.batch_size,
            seed=config.seed,
            steps=config.loop.steps,
            start_step=done,
            rank=rank,
            world=world,
        )
        yield from listed(feed, out / ("skipped.jsonl" if rank == 0 else f"skipped_rank{rank}.jsonl"), done)

    measure = figures(config, objective, accelerator, make_probe)
    work = clip_work(config, objective)
    train("pretrain", objective, batches, measure, accelerator, config.loop, out, moments=moments, work=work)


def figures(
    config: PretrainConfig, objective: Objective, accelerator: Accelerator, make_probe: MakeProbe | None
) -> Callable[[int], dict[str, float]]:
    """What measures the target encoder at a step, for it is the one that is kept."""
    fixed = heldout_clips(config)
    probe = None
    if config.probe.shards and make_probe:
        made = partial(make_probe, config.probe, config.data, config.seed, Path(config.out) / "probe")
        first_alone(accelerator, made)  # it fills the cache
        probe = made()

    def measure(step: int) -> dict[str, float]:
        found = {"ema_drift": health.ema_drift(objective, accelerator.device)}
        if fixed:
            found |= health.measure(objective.target_encoder, fixed)
        scores = {}
        if probe and (step % config.probe.every == 0 or step == config.loop.steps):
            scores = probe(objective.target_encoder)
        return {f"health/{key}": value for key, value in found.items()} | scores

    return measure


def start(config: PretrainConfig, objective: nn.Module) -> Read | None:
    """Load the weights of `start_from`, if this run has no checkpoint of its own; the moments to begin with, or None.

    Raises:
        ConfigError: `start_optimizer` without `start_from`.
        CheckpointError: what `start_from` names is missing or does not fit.
    """
    if config.start_optimizer:
        required(config.start_from, "start_from")
    if not config.start_from or checkpoint.latest(Path(config.out))[0]:
        return None
    moments = begin_from(config.start_from, objective, to_dict(config))
    return moments if config.start_optimizer else None


def listed(feed: Clips, path: Path, done: int) -> Iterator[Clip]:
    """The clips of `feed`; every sample that had to be replaced is written to a ledger, with the step."""
    if feed.left_out:
        console.print(f"{feed.left_out} videos are shorter than a clip and left out")
    known, step = 0, done
    with JsonLines(path, done) as ledger:
        try:
            for step, clip in enumerate(feed, start=done + 1):
                for skipped in feed.skipped[known:]:
                    ledger.write({"step": step, **skipped._asdict()})
                known = len(feed.skipped)
                yield clip
        finally:  # where too many are unreadable, the last of them stop the run
            for skipped in feed.skipped[known:]:
                ledger.write({"step": step + 1, **skipped._asdict()})
    if known:
        console.print(f"[yellow]{known} unreadable samples were replaced; see {path}")


def heldout_clips(config: PretrainConfig) -> list[Clip]:
    """The same held-out clips, un-augmented, at every measurement; none without `heldout`."""
    if not config.heldout:
        return []
    data = replace(
        config.data,
        shards=config.heldout,
        mix=[],
        rand_augment=False,
        crop_scale=(1.0, 1.0),
        crop_aspect=(1.0, 1.0),
        hflip=False,
        workers=0,
    )
    size = min(64, config.heldout_clips)
    steps = math.ceil(config.heldout_clips / size)
    return list(clips(load_manifests(data), data, batch_size=size, seed=config.seed, steps=steps))
