"""The settings of a published protocol on a labelled data set: `jepa probe benchmark PRESET [key=value …]`."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from jepa.config import ConfigError, plugin
from jepa.probes.features import IMAGE
from jepa.probes.published.protocol import check_grid, need_at_least

AUGMENTS = ("paper", "none")
CACHES = ("none", "evaluation", "all")
ALWAYS = ("pretrained", "random_init")
"""The encoders that kNN always compares."""

FREE = ("out", "workers", "checkpoint_every", "rows", "knn_clips")
"""What may change when a row goes on: no figure of it depends on it."""


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
        need_at_least(1, self, ("size", "frames", "segments", "views", "depth", "heads", "epochs", "batch"))
        need_at_least(1, self, ("knn_clips", "checkpoint_every"))
        need_at_least(0, self, ("frame_step", "fps", "warmup", "start_lr", "halving", "limit", "workers"))
        check_grid(self.lr, self.weight_decay)
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation {self.validation:g}: must be between 0 and 1")
        if unknown := [row for row in self.rows if row not in (*ALWAYS, IMAGE)]:
            raise ConfigError(f"rows: '{unknown[0]}' is not one of {', '.join((*ALWAYS, IMAGE))}")
        if not self.rows or (IMAGE in self.rows) != bool(self.image_encoder):
            raise ConfigError(f"rows {list(self.rows)}: name at least one, and '{IMAGE}' together with image_encoder=…")
