"""Post-train a world model on frozen features: `accelerate launch -m jepa posttrain PRESET [key=value …]`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING

from jepa import runs
from jepa.config import ConfigError, build, load_config, plugin, to_dict
from jepa.data.index import Manifest
from jepa.data.loader import episodes
from jepa.interop.encoders import load_encoder
from jepa.logs import console, progress_bar
from jepa.loop import train
from jepa.models.encoder import build_encoder, encode_frames
from jepa.models.pixel_encoder import PixelEncoder, PixelEncoderConfig
from jepa.open_loop import open_loop
from jepa.pretrain import PretrainConfig
from jepa.training import LoopConfig, first_alone, join, make_accelerator, required
from jepa.worlds.base import Sequence


@dataclass(frozen=True)
class PosttrainConfig:
    """A post-training run on top of `encoder`: a pre-training run, a released model, or timm/NAME of an image encoder.

    `weights: random` takes only the encoder's shape from there and draws new weights: the control for pre-training.
    `pixels` takes only its image size and patches: the patches' raw pixels are the tokens.
    These two need no trained run, so `encoder` may then be a pretrain preset as well. For an image encoder `weights`
    may be a .safetensors file too; `pretrained` are those of the hub.
    `frames` is the length of the training windows.
    """

    out: str = MISSING
    encoder: str = ""
    weights: str = "pretrained"
    shards: str = ""
    heldout: str = ""
    world: Any = plugin("jepa.worlds", "ac_jepa")
    frames: int = 3
    batch_size: int = 16
    loop: LoopConfig = field(default_factory=LoopConfig)
    seed: int = 0


def run(config: PosttrainConfig) -> None:
    """Encode all frames once, then train the world model to `loop.steps`, resuming where a run stopped."""
    out = Path(config.out)
    encoder = _encoder(config)
    shards = {"train": required(config.shards, "shards"), "heldout": required(config.heldout, "heldout")}
    manifests = {split: Manifest.load(path) for split, path in shards.items()}
    accelerator = make_accelerator(config.out, config.loop)
    digests = {shards[split]: manifest.sha256 for split, manifest in manifests.items()}
    join(accelerator, out, to_dict(config), digests)
    first_alone(accelerator, lambda: runs.save_encoder(out, encoder))
    caches = {split: out / "features" / f"{split}.safetensors" for split in manifests}

    def encoded() -> list[Sequence]:
        return [encode_shards(encoder, manifest, caches[split]) for split, manifest in manifests.items()]

    first_alone(accelerator, encoded)  # it fills the caches
    data, heldout = encoded()
    spec = runs.world_spec(encoder, data.actions.shape[-1], data.states.shape[-1])
    shortest = min(data.tokens.shape[1], heldout.tokens.shape[1])
    if not 2 <= config.frames <= shortest or shortest < 5:
        raise ConfigError(
            f"frames={config.frames}, and the shortest episode has {shortest}: windows need 2 to that many frames, "
            "and the figures at 4 steps need 5"
        )
    world = build(config.world, spec, torch.Generator().manual_seed(config.seed))
    world.fit_scales(data)

    def batches(done: int) -> Iterator[Sequence]:
        rank, ranks = accelerator.process_index, accelerator.num_processes
        for step in range(done + 1, config.loop.steps + 1):
            yield windows(data, config.frames, config.batch_size, (config.seed, step), rank, ranks)

    def measure(step: int) -> dict[str, float]:
        return {f"heldout/{key}": value for key, value in open_loop(world, heldout).items()}

    train("posttrain", world, batches, measure, accelerator, config.loop, out)


def windows(data: Sequence, frames: int, batch: int, key: tuple[int, ...], rank: int = 0, world: int = 1) -> Sequence:
    """This rank's share of a batch of random windows of `frames` frames; a pure function of `key`."""
    rng = np.random.default_rng(key)
    rows = rng.integers(0, data.tokens.shape[0], batch)
    starts = rng.integers(0, data.tokens.shape[1] - frames + 1, batch)
    pairs = list(zip(rows, starts, strict=True))[rank::world]
    return Sequence(
        torch.stack([data.tokens[r, s : s + frames] for r, s in pairs]).float(),
        torch.stack([data.actions[r, s : s + frames - 1] for r, s in pairs]),
        torch.stack([data.states[r, s : s + frames] for r, s in pairs]),
    )


@torch.no_grad()
def encode_shards(encoder: runs.AnyEncoder, manifest: Manifest, cache: Path, chunk: int = 64) -> Sequence:
    """All frames of all episodes, encoded one by one: tokens (n, T, N, D) in half precision to halve the memory.

    Kept in `cache`, keyed by the encoder's weights and the shards. Episodes longer than the shortest are cut.
    """
    shards = manifest.location
    key = f"{runs.encoder_sha256(encoder)} {manifest.sha256}"
    if (cached := runs.read_cache(cache, key)) is not None:
        return Sequence(cached["tokens"], cached["actions"], cached["states"])
    tokens, actions, states = [], [], []
    with progress_bar() as bar:
        task = bar.add_task(f"encode {Path(shards).name}", total=len(manifest), figures="")
        for episode in episodes(manifest, encoder.config.size):
            if "actions" not in episode.arrays:
                raise ConfigError(f"{shards}: sample {episode.id} has no actions, which post-training needs")
            parts = [encode_frames(encoder, part[None])[0].half() for part in episode.frames.split(chunk)]
            tokens.append(torch.cat(parts))
            actions.append(torch.from_numpy(episode.arrays["actions"]).float())
            state = episode.arrays.get("states", np.empty((len(episode.frames), 0)))  # a world may do without
            states.append(torch.from_numpy(state).float())
            bar.advance(task)
    if len(widths := {s.shape[1] for s in states}) > 1:
        raise ConfigError(f"{shards}: states of {', '.join(map(str, sorted(widths)))} numbers; all must have as many")
    length = min(len(t) for t in tokens)
    if (cut := sum(len(t) - length for t in tokens)) > 0:
        console.print(f"[yellow]{shards}: all episodes cut to the shortest, {length} frames; {cut} frames are not used")
    data = Sequence(
        torch.stack([t[:length] for t in tokens]),
        torch.stack([a[: length - 1] for a in actions]),
        torch.stack([s[:length] for s in states]),
    )
    runs.write_cache(cache, key, {"tokens": data.tokens, "actions": data.actions, "states": data.states})
    return data


def _encoder(config: PosttrainConfig) -> runs.AnyEncoder:
    name = required(config.encoder, "encoder")
    if name.startswith("timm/") or config.weights == "pretrained":
        return load_encoder(name, "hub" if config.weights == "pretrained" else config.weights, config.seed)[0]
    if config.weights in ("random", "pixels"):
        a_run = (Path(name) / "config.json").is_file()
        shape = runs.encoder_config(name) if a_run else load_config(PretrainConfig, "pretrain", name).encoder
        if config.weights == "pixels":
            return PixelEncoder(PixelEncoderConfig(shape.size, shape.patch))
        return build_encoder(shape, config.seed).eval().requires_grad_(False)
    raise ConfigError(f"weights: '{config.weights}' is not pretrained, random or pixels (nor is {name} of timm)")
