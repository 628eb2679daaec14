"""What a run of `jepa probe` is asked for."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from jepa.config import ConfigError, plugin

KINDS = ("attentive", "attentive_regression", "linear", "knn", "regression")
"""The keys that set probes, each by its own file."""


@dataclass(frozen=True)
class ProbeConfig:
    """A probe run. `encoder` is the folder of a pre-training run, or a released model; `out` gets the results.

    `image_encoder` is the name of an image encoder of timm, one more row; its `weights` are a .safetensors file, `hub`
    or `random`. Without `shards_test` a fifth of the train episodes is the test set, or with `folds` each fold in its
    turn, so that every episode is tested once. `labels` is a file of one's own (jepa/probes/labels.py), whose arrays
    stand beside those of the shards. `fps` 0 takes every frame, `size` 0 is the encoder's own, and `frames` 0, in the
    suite alone, are those of its training. A probe seed draws the clips, the folds, the heads, the minibatches, the
    coins of tasks that change clips, and the random encoder. Every row has the same clips and budget.

    Raises ConfigError for a value outside its range.
    """

    encoder: str = MISSING
    image_encoder: str = ""
    weights: str = "hub"
    shards_train: str = MISSING
    shards_test: str = ""
    labels: str = ""
    out: str = MISSING
    frames: int = 4
    fps: float = 0.0
    size: int = 0
    clips_train: int = 2  # an episode
    clips_test: int = 4  # an episode
    max_clips: int = 20000  # of either side
    seed: int = 0
    seeds: int = 3
    folds: int = 0
    tasks: tuple[str, ...] = ("skill", "gripper", "object", "arrow")
    workers: int = 2
    attentive: Any = plugin("jepa.probes.kinds", "attentive")
    attentive_regression: Any = plugin("jepa.probes.kinds", "attentive_regression")
    linear: Any = plugin("jepa.probes.kinds", "linear")
    knn: Any = plugin("jepa.probes.kinds", "knn")
    regression: Any = plugin("jepa.probes.kinds", "regression")

    def __post_init__(self) -> None:
        least = {"frames": 0, "fps": 0, "size": 0, "seed": 0, "seeds": 1, "workers": 1}
        least |= {"clips_train": 1, "clips_test": 1, "max_clips": 1}
        for key, value in least.items():
            if getattr(self, key) < value:
                raise ConfigError(f"{key}={getattr(self, key)}: must be {value} or more")
        if self.folds == 1 or self.folds < 0:
            raise ConfigError(f"folds={self.folds}: must be 2 or more, or 0 for a single split")
        if self.folds and self.shards_test:
            raise ConfigError("folds=… are cut from shards_train: leave shards_test out")

    def probe_seeds(self) -> range:
        """The seeds to repeat everything for."""
        return range(self.seed, self.seed + self.seeds)
