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
from jepa.encode import encode_shards
from jepa.encoded import Episodes, windows
from jepa.interop.encoders import load_encoder
from jepa.logs import console
from jepa.loop import train
from jepa.models.encoder import build_encoder
from jepa.models.pixel_encoder import PixelEncoder, PixelEncoderConfig
from jepa.open_loop import open_loop
from jepa.pretrain import PretrainConfig
from jepa.status import write_json
from jepa.training import LoopConfig, first_alone, join, make_accelerator, required
from jepa.worlds.base import Sequence

FITTED = 1 << 28  # numbers of tokens from which a world takes its scales: 3 GB while it does
HELDOUT_FRAMES = 5  # `open_loop` looks 4 steps ahead


@dataclass(frozen=True)
class PosttrainConfig:
    """A post-training run on top of `encoder`: a pre-training run, a released model, or timm/NAME of an image encoder.

    `weights: random` takes only the encoder's shape from there and draws new weights: the control for pre-training.
    `pixels` takes only its image size and patches: the patches' raw pixels are the tokens.
    These two need no trained run, so `encoder` may then be a pretrain preset as well. For an image encoder `weights`
    may be a .safetensors file too; `pretrained` are those of the hub.
    `frames` is the length of the training windows. They are made of every frame of the episodes, or with `fps` of so
    many a second at most; actions are then the changes of the 7-D poses that are the states. `crop` is what the world
    sees of each picture, in training and ever after: centre or squeeze, as `runs.Reading` says.

    Raises ConfigError for a value outside its range.
    """

    out: str = MISSING
    encoder: str = ""
    weights: str = "pretrained"
    shards: str = ""
    heldout: str = ""
    world: Any = plugin("jepa.worlds", "ac_jepa")
    fps: float = 0.0
    crop: str = runs.Reading.crop
    frames: int = 3
    batch_size: int = 16
    loop: LoopConfig = field(default_factory=LoopConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ConfigError(f"frames {self.frames}: must be at least 2")
        runs.Reading(self.fps, crop=self.crop)  # says what is wrong with these

    @property
    def reading(self) -> runs.Reading:
        """How the shards are read for this world."""
        return runs.Reading(self.fps, getattr(self.world, "extrinsics", False), self.crop)


def run(config: PosttrainConfig) -> None:
    """Encode all frames once, then train the world model to `loop.steps`, resuming where a run stopped."""
    out = Path(config.out)
    encoder = _encoder(config)
    shards = {"train": required(config.shards, "shards"), "heldout": required(config.heldout, "heldout")}
    manifests = {split: Manifest.load(path) for split, path in shards.items()}
    accelerator = make_accelerator(config.out, config.loop)
    join(accelerator, out, to_dict(config), {shards[split]: manifest.sha256 for split, manifest in manifests.items()})
    first_alone(accelerator, lambda: runs.save_encoder(out, encoder))
    encoded = {
        split: encode_shards(encoder, manifest, config.reading, out / "features" / split, accelerator)
        for split, manifest in manifests.items()
    }
    least = {"train": config.frames, "heldout": HELDOUT_FRAMES}
    first_alone(accelerator, lambda: _list_short(encoded, manifests, least, out))
    data, heldout = encoded["train"], encoded["heldout"]
    spec = runs.world_spec(encoder, *data.widths)
    world = build(config.world, spec, torch.Generator().manual_seed(config.seed))
    world.fit_scales(data.joined(FITTED)[0])

    def batches(done: int) -> Iterator[Sequence]:
        rank, ranks = accelerator.process_index, accelerator.num_processes
        for step in range(done + 1, config.loop.steps + 1):
            yield windows(data, config.frames, config.batch_size, (config.seed, step), rank, ranks)

    def measure(step: int) -> dict[str, float]:
        return {f"heldout/{key}": value for key, value in open_loop(world, heldout).items()}

    train("posttrain", world, batches, measure, accelerator, config.loop, out)


def _list_short(encoded: dict[str, Episodes], manifests: dict[str, Manifest], least: dict[str, int], out: Path) -> None:
    """Write the keys of episodes that have fewer frames than they need to OUT/too_short.json, and say how many.

    Raises ConfigError where all of them have.
    """
    short: dict[str, list[str]] = {}
    for split, data in encoded.items():
        found = np.flatnonzero(data.lengths < least[split]).tolist()
        needed = f"{manifests[split].location}: windows of {least[split]} frames are needed"
        if len(found) == len(data):
            raise ConfigError(f"{needed}, and the longest episode has {data.lengths.max()}")
        if found:
            short[split] = [manifests[split][i].key for i in found]
            listed = out / "too_short.json"
            console.print(f"[yellow]{needed}: {len(found)} of {len(data)} episodes are shorter and left out ({listed})")
    if short:
        write_json(out / "too_short.json", short)


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
