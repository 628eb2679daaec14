"""Segmentation or depth from frozen tokens of single images: `jepa probe dense PRESET [key=value …]`."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING
from rich.console import Console
from torch import Tensor

from jepa.config import ConfigError, to_dict
from jepa.logs import progress_bar
from jepa.probes import features
from jepa.probes.dense import report as dense_report
from jepa.probes.dense.images import Pairs, find_pairs, read_images, read_maps
from jepa.probes.dense.maps import UNKNOWN, has_label, map_sums
from jepa.probes.features import IMAGE, MAKERS
from jepa.probes.kinds import dense as linear
from jepa.probes.kinds.base import Features, ProbeError
from jepa.probes.metrics import Array
from jepa.probes.store import digest, open_store
from jepa.runs import encoder_config, encoder_sha256

TASKS = ("segmentation", "depth")
CONSTANT = "constant"
RESULT = "dense.json"
CHUNK = 64  # images that are read and encoded at a time


@dataclass(frozen=True)
class DenseConfig:
    """A dense probe run. `encoder` is the folder of a pre-training run, or a released model; `out` gets the results.

    Images and label maps lie in folders (see docs/probes.md). `no_label` is a class that is not to be learned, beside
    255. `depth_unit` is how many metres 1 in a depth PNG stands for. `size`, in pixels, 0 being the encoder's own,
    is that of images and maps. `image_encoder` and `weights` are those of a probe run: one more row.

    Raises ConfigError for a value outside its range.
    """

    encoder: str = MISSING
    image_encoder: str = ""
    weights: str = "hub"
    task: str = "segmentation"
    images_train: str = MISSING
    labels_train: str = MISSING
    images_test: str = MISSING
    labels_test: str = MISSING
    out: str = MISSING
    size: int = 0
    no_label: int = UNKNOWN
    depth_unit: float = 0.001
    seed: int = 0
    seeds: int = 3
    probe: linear.Config = linear.Config()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"task '{self.task}' is not one of {', '.join(TASKS)}")
        if self.size < 0 or self.seeds < 1 or self.depth_unit <= 0:
            raise ConfigError(
                f"size {self.size}, seeds {self.seeds}, depth_unit {self.depth_unit:g}: from 0, from 1, and above 0"
            )


@dataclass(frozen=True)
class Side:
    """The images of train or test and their label maps (B, H, W)."""

    pairs: Pairs
    maps: Tensor


def run(config: DenseConfig) -> dict[str, Any]:
    """Fit and score one probe for every row and seed; writes and returns `out/dense.json`.

    Raises:
        ConfigError, ProbeError, CheckpointError: settings, images, maps or encoder that do not fit together, or results
            of another config in `out`.
    """
    _check_unused(config)
    size, is_depth = config.size or encoder_config(config.encoder).size, config.task == "depth"
    train, test = (
        _side(images, maps, size, config)
        for images, maps in ((config.images_train, config.labels_train), (config.images_test, config.labels_test))
    )
    if shared := set(train.pairs.digests) & set(test.pairs.digests):
        path = test.pairs.images[test.pairs.digests.index(shared.pop())]
        raise ProbeError(f"{path} is a train image too: a probe must be tested on others")
    classes = 0 if is_depth else int(max(side.maps[side.maps != UNKNOWN].max() for side in (train, test))) + 1
    seeds = range(config.seed, config.seed + config.seeds)
    sums: dict[str, list[Array]] = {CONSTANT: [_constant(train.maps, test.maps, classes)] * len(seeds)}
    chosen: dict[str, list[dict[str, float]]] = {}
    makers = [m for m in MAKERS if m != IMAGE or config.image_encoder]
    with progress_bar() as bar:
        line = bar.add_task("encode and probe", total=len(makers) * len(seeds), figures="")
        for maker in makers:
            for seed in seeds:
                seen, unseen = (_features(config, maker, seed, side, size) for side in (train, test))
                probe = linear.build(config.probe, np.random.default_rng(seed))
                probe.fit(seen, train.maps)
                sums.setdefault(maker, []).append(probe.sums(unseen, test.maps, classes))
                chosen.setdefault(maker, []).append(probe.chosen)
                bar.advance(line)
    result = {"config": to_dict(config), "images": [len(side.maps) for side in (train, test)]}
    result |= dense_report.summarise(sums, test.pairs.groups.numpy(), is_depth, config.seed) | {"chosen": chosen}
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / RESULT).write_text(json.dumps(result, indent=1, allow_nan=False))
    dense_report.show(result, Console())
    return result


def _check_unused(config: DenseConfig) -> None:
    """Results of another config are not written over."""
    file = Path(config.out) / RESULT
    if not file.is_file():
        return
    old, new = json.loads(file.read_text())["config"], json.loads(json.dumps(to_dict(config)))
    if changed := [key for key in new if key != "out" and old.get(key) != new[key]]:
        key = changed[0]
        raise ConfigError(
            f"{config.out} holds the results of another config ({key}: {old.get(key)} there, {new[key]} here); choose "
            f"another out=… or remove {file}"
        )


def _side(images: str, maps: str, size: int, config: DenseConfig) -> Side:
    pairs = find_pairs(images, maps)
    labels = read_maps(pairs, size, config.depth_unit if config.task == "depth" else 0.0)
    if config.task == "segmentation":
        labels[labels == config.no_label] = UNKNOWN
    if not has_label(labels).any():
        raise ProbeError(f"{maps}: no pixel has a label")
    return Side(pairs, labels)


def _features(config: DenseConfig, maker: str, seed: int, side: Side, size: int) -> Features:
    """Tokens (B, K, D), float16 on disk: those of images that are not there yet are made now."""
    encoder = features.make_encoder(maker, config.encoder, seed, (config.image_encoder, config.weights))
    if maker == "pixels":
        patch = encoder.config.patch
        shape, key = ((size // patch) ** 2, 3 * patch**2), f"pixels {patch}"
        made = partial(features.pixel_tokens, patch=patch, tubelet=1)
    else:
        _, rows, columns = encoder.grid(1, size, size)
        shape, key = (rows * columns, encoder.embed_dim), encoder_sha256(encoder)
        made = partial(features.encode, encoder)
    what = {"tokens": key, "images": digest(side.pairs.digests), "size": size}
    store = open_store(Path(config.out) / "cache", what, len(side.maps), shape)
    missing = store.missing()
    for start in range(0, len(missing), CHUNK):
        ids = missing[start : start + CHUNK]
        store.write(ids, made(read_images([side.pairs.images[i] for i in ids.tolist()], size)))
    return Features(store.values, side.pairs.groups)


def _constant(train: Tensor, test: Tensor, classes: int) -> Array:
    """Sums of the best map that reads no image: the commonest class, or the mean depth, everywhere."""
    known = train[has_label(train)]
    guess = torch.bincount(known.long()).argmax() if classes else known.mean()
    return map_sums(guess.expand(test.shape), test, max(classes, 1)).numpy()
