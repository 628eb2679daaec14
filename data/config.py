"""What of which videos becomes a clip: the settings of the loader, and the data sets that they name."""

from dataclasses import dataclass, field
from typing import NamedTuple

from jepa.data.errors import DataError
from jepa.data.index import Manifest

SHORT = ("pad_last", "loop", "skip")


@dataclass(frozen=True)
class DataSet:
    """One data set of a mixture; `frames` and `fps` as in `DataConfig` where they are None."""

    shards: str = ""
    weight: float = 1.0
    frames: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < 1:
            raise DataError(f"{self.shards}: frames {self.frames}: must be at least 1")


class Part(NamedTuple):
    """What one data set adds to a run: how often it is drawn, and its clips' frames and frames per second."""

    shards: str
    weight: float
    frames: int
    fps: float


@dataclass(frozen=True)
class DataConfig:
    """What of the videos becomes a clip.

    `shards` is a folder or URL; or `mix` names several with weights. Data sets with the same number of frames share
    batches; a step's batch holds clips of one length. `fps <= 0` takes every frame. `short` says what becomes of videos
    shorter than a clip: `pad_last` repeats their last frame (as V-JEPA 2), `loop` starts them again, both with `valid`
    False; `skip` leaves them out.

    `crop_scale` is the range of the crop's share of the area, `crop_aspect` of its width/height; (1, 1) for both cuts
    the largest centred square. `cache_gb` keeps decoded videos in memory, per process (so per worker), until that
    many GB are full; `remote_cache_gb` keeps bytes of remote shards on disk, per machine. A worker that takes longer
    than `timeout` seconds for one sample is replaced, and the sample skipped; without workers nothing can interrupt a
    decoder.

    Videos of which the short side is at least 4/3 of `size / sqrt(crop_scale[0])` are first resized to that: a square
    crop then still has at least `size` pixels a side, and the cache holds no more than it needs. Smaller ones stay
    as they are, for cutting before resizing touches fewer pixels. The cache plays no part in this, so that the clips
    are the same with and without it.
    """

    shards: str = ""
    mix: list[DataSet] = field(default_factory=list)
    frames: int = 16
    fps: float = 4.0
    short: str = "pad_last"
    size: int = 256
    crop_scale: tuple[float, float] = (0.3, 1.0)
    crop_aspect: tuple[float, float] = (0.75, 1.35)
    hflip: bool = True
    rand_augment: bool = False
    workers: int = 0
    timeout: float = 120.0
    cache_gb: float = 0.0
    remote_cache_gb: float = 8.0

    def __post_init__(self) -> None:
        for name in ("crop_scale", "crop_aspect"):  # configs give lists
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise DataError(f"crop_scale {self.crop_scale}: needs 0 < low <= high <= 1")
        if not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise DataError(f"crop_aspect {self.crop_aspect}: needs 0 < low <= high")
        if min(self.frames, self.size) < 1 or min(self.workers, self.cache_gb, self.remote_cache_gb) < 0:
            raise DataError("frames and size must be at least 1, workers, cache_gb and remote_cache_gb at least 0")
        if self.short not in SHORT:
            raise DataError(f"short '{self.short}': must be one of {', '.join(SHORT)}")
        if self.timeout <= 0:
            raise DataError(f"timeout {self.timeout}: must be more than 0 seconds")
        if self.shards and self.mix:
            raise DataError("give either shards or mix, not both")

    @property
    def parts(self) -> tuple[Part, ...]:
        """The data sets to mix, with their own frames and fps; one for plain `shards`."""
        given = self.mix or [DataSet(self.shards)]
        return tuple(
            Part(
                part.shards,
                part.weight,
                self.frames if part.frames is None else part.frames,
                self.fps if part.fps is None else part.fps,
            )
            for part in given
        )


def load_manifests(config: DataConfig) -> list[Manifest]:
    """The data sets of `config`, opened. Raises DataError where one cannot be."""
    return [Manifest.load(part.shards, cache_gb=config.remote_cache_gb) for part in config.parts]
