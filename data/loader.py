"""Batches of augmented clips from shards; no rank, worker count or resume changes what a batch holds."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jepa.data import transforms
from jepa.data.clip import Clip, Episode
from jepa.data.decode import decode
from jepa.data.errors import DataError
from jepa.data.index import Entry, Manifest
from jepa.data.order import order

BAD_LIMIT = 0.05  # share of the last BAD_WINDOW reads that may fail before a run stops
BAD_WINDOW = 1000
BAD_MINIMUM = 100  # reads before the share means anything
BAD_IN_A_ROW = 20
LONGEST_CACHED = 1e9  # bytes of a decoded video before it is shrunk; a longer one would fill the memory


@dataclass(frozen=True)
class DataConfig:
    """What of the videos becomes a clip.

    `fps <= 0` takes every frame. `crop_scale` is the range of the crop's share of the area, `crop_aspect` of
    its width/height; (1, 1) for both cuts the largest centred square. `cache_gb` keeps decoded videos in
    memory, per process (so per worker), until that many GB are full.

    Videos are first resized so that their short side is at most `size / sqrt(crop_scale[0])`: a square crop
    then has at least `size` pixels a side, and the cache holds no more than it needs. This happens with and
    without a cache, so that the clips are the same.
    """

    shards: str = ""
    frames: int = 16
    fps: float = 4.0
    size: int = 256
    crop_scale: tuple[float, float] = (0.3, 1.0)
    crop_aspect: tuple[float, float] = (0.75, 1.35)
    hflip: bool = True
    workers: int = 0
    cache_gb: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop_scale", "crop_aspect"):  # configs give lists
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise DataError(f"crop_scale {self.crop_scale}: needs 0 < low <= high <= 1")
        if not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise DataError(f"crop_aspect {self.crop_aspect}: needs 0 < low <= high")
        if min(self.frames, self.size) < 1 or min(self.workers, self.cache_gb) < 0:
            raise DataError("frames and size must be at least 1, workers and cache_gb at least 0")


class Skipped(NamedTuple):
    """A sample that could not be read and was replaced by the next one of its epoch."""

    shard: str
    key: str
    reason: str


class _Item(NamedTuple):
    parts: dict[str, Tensor] | None  # one clip without the batch dimension; None: no stand-in could be read
    skipped: tuple[Skipped, ...]


def clips(
    manifest: Manifest,
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    steps: int,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
) -> "Clips":
    """The batches of steps `start_step` … `steps - 1`, as an iterator of `Clip` with a ledger `.skipped`.

    `batch_size` is global: with B = batch_size / world, a rank gets rows `rank * B .. (rank + 1) * B - 1`.
    Frames are taken `1 / config.fps` seconds apart, rounded to whole frames (a faster rate than the video's
    repeats frames); a clip longer than its video repeats the last frame, `valid` False. `actions` are there
    only when every frame is taken (fps <= 0, or all videos have just this rate) and none is mirrored;
    behind a video's end they are 0. `states` too are there only when no frame is mirrored. Labels are never
    mirrored.

    Raises:
        DataError: batch_size does not divide by world; later, while iterating: too many unreadable samples.
    """
    if batch_size < 1 or batch_size % world or not 0 <= rank < world:
        raise DataError(f"batch size {batch_size} does not divide over {world} processes; choose a multiple")
    return Clips(_Slots(manifest, config, batch_size, seed), range(start_step, steps), rank, world)


class Clips(Iterator[Clip]):
    """What `clips` returns. `skipped` lists every sample replaced so far on this rank, in order."""

    def __init__(self, slots: "_Slots", steps: range, rank: int, world: int) -> None:
        self.skipped: list[Skipped] = []
        self._step = steps.start
        self._window: deque[bool] = deque(maxlen=BAD_WINDOW)
        own = slots.batch_size // world
        self._batches = iter(
            DataLoader(
                slots,
                batch_sampler=_Places(steps, rank * own, own),  # type: ignore[arg-type]
                num_workers=slots.config.workers,
                collate_fn=list,
                generator=torch.Generator().manual_seed(slots.seed),  # else it draws from the global one
            )
        )

    def __next__(self) -> Clip:
        items: list[_Item] = next(self._batches)
        for item in items:
            self.skipped += item.skipped
            self._window.extend([True] * len(item.skipped) + [False])
            if item.parts is None:
                raise DataError(f"{len(item.skipped)} samples in a row cannot be read; the first: {item.skipped[0]}")
        bad = sum(self._window)
        if len(self._window) >= BAD_MINIMUM and bad > BAD_LIMIT * len(self._window):
            raise DataError(
                f"{bad} of the last {len(self._window)} samples cannot be read (limit {BAD_LIMIT:.0%}); "
                f"the last: {self.skipped[-1]}"
            )
        step, self._step = self._step, self._step + 1
        return _stack([item.parts for item in items if item.parts is not None], step)


class _Places:
    """Batches of (step, slot) keys, this rank's share of every step; made on the fly: resume is free."""

    def __init__(self, steps: range, first: int, count: int) -> None:
        self.steps, self.slots = steps, range(first, first + count)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(step, slot) for slot in self.slots] for step in self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class _Slots(Dataset):  # type: ignore[type-arg]
    """(step, slot) -> one augmented clip; keeps decoded videos as long as there is room."""

    def __init__(self, manifest: Manifest, config: DataConfig, batch_size: int, seed: int) -> None:
        self.manifest, self.config, self.batch_size, self.seed = manifest, config, batch_size, seed
        self.names = _shared_arrays(manifest, config)
        self.short_side = math.ceil(config.size / math.sqrt(config.crop_scale[0]))
        self.room = config.cache_gb * 1e9
        self.cache: dict[int, tuple[Tensor, dict[str, np.ndarray]]] = {}

    def __getitem__(self, place: tuple[int, int]) -> _Item:
        samples = len(self.manifest)
        skipped: list[Skipped] = []
        for k in range(min(samples, BAD_IN_A_ROW)):
            epoch, i = order(*place, seed=self.seed, samples=samples, batch_size=self.batch_size, replacement=k)
            try:
                return _Item(self._clip(epoch, i), tuple(skipped))
            except DataError as error:
                entry = self.manifest.samples[i]
                skipped.append(Skipped(entry.shard, entry.key, str(error)))
        return _Item(None, tuple(skipped))

    def _clip(self, epoch: int, i: int) -> dict[str, Tensor]:
        entry, c = self.manifest.samples[i], self.config
        rng = transforms.generator(self.seed, epoch, i)
        ids, valid = sample_frames(entry.frames, c.frames, _frame_step(entry, c), rng)
        frames, arrays = self._frames(entry, ids)
        crop = transforms.random_crop(
            *frames.shape[-2:], scale=c.crop_scale, aspect=c.crop_aspect, hflip=c.hflip, rng=rng
        )
        parts = {"frames": transforms.cut(frames, crop, c.size), "valid": valid}
        parts |= {"sample_id": torch.tensor(i), "epoch": torch.tensor(epoch)}
        for name in self.names:
            if name == "actions":
                kept = arrays[name][ids[0] : ids[0] + c.frames - 1]
                padding = ((0, c.frames - 1 - len(kept)), (0, 0))
                parts[name] = torch.from_numpy(np.pad(kept, padding))
            else:
                parts[name] = torch.from_numpy(arrays[name][ids])
        return parts

    def _frames(self, entry: Entry, ids: np.ndarray) -> tuple[Tensor, dict[str, np.ndarray]]:
        """Frames (T, 3, h, w) of a video, shrunk, and the whole arrays."""
        if entry.id in self.cache:
            return self._cached(entry, ids)
        height, width = transforms.shrunk_size(entry.height, entry.width, self.short_side)
        needed = entry.frames * height * width * 3
        too_long = entry.frames * entry.height * entry.width * 3 > LONGEST_CACHED
        sample = self.manifest.read(entry.id)
        if needed > self.room or too_long:
            return self._decode(sample.video, ids), sample.arrays
        video = self._decode(sample.video, np.arange(entry.frames))
        self.room -= needed
        self.cache[entry.id] = video.permute(0, 2, 3, 1).contiguous(), sample.arrays
        return self._cached(entry, ids)

    def _cached(self, entry: Entry, ids: np.ndarray) -> tuple[Tensor, dict[str, np.ndarray]]:
        video, arrays = self.cache[entry.id]  # (T, h, w, 3): whole frames are copied 10 times faster so
        return video.index_select(0, torch.from_numpy(ids)).permute(0, 3, 1, 2), arrays

    def _decode(self, video: bytes, ids: np.ndarray) -> Tensor:
        frames = torch.from_numpy(decode(video, ids.tolist())).permute(0, 3, 1, 2)
        return transforms.shrink(frames, self.short_side)


def sample_frames(total: int, wanted: int, step: float, rng: np.random.Generator) -> tuple[np.ndarray, Tensor]:
    """Frame ids (T) int64 at a random start, `step` frames apart, and whether each exists (T) bool.

    Positions are rounded to whole frames. Behind the last frame (a video shorter than the clip starts at its
    first) the id is the last frame's.
    """
    offsets = np.rint(np.arange(wanted) * step).astype(np.int64)
    ids = offsets + rng.integers(max(1, total - int(offsets[-1])))
    return np.minimum(ids, total - 1), torch.from_numpy(ids < total)


def episodes(manifest: Manifest, size: int) -> Iterator[Episode]:
    """Every video whole, in order: frames resized to short side `size` and cut to the centred square.

    Raises:
        DataError: a video cannot be read; names shard and key.
    """
    for entry in manifest.samples:
        sample = manifest.read(entry.id)
        try:
            pixels = decode(sample.video, range(entry.frames))
        except DataError as error:
            raise DataError(f"{entry.shard}: {entry.key}: {error}") from error
        frames = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        crop = transforms.centre_crop(*frames.shape[-2:])
        yield Episode(transforms.cut(frames, crop, size), sample.arrays, entry.id)


def _frame_step(entry: Entry, config: DataConfig) -> float:
    return entry.fps / config.fps if config.fps > 0 else 1.0


def _shared_arrays(manifest: Manifest, config: DataConfig) -> tuple[str, ...]:
    """Names of the arrays that every sample has and that hold for the clips that `config` asks for."""
    names = set.intersection(*(set(entry.arrays) for entry in manifest.samples))
    every_frame = all(_frame_step(entry, config) == 1 for entry in manifest.samples)
    if config.hflip:
        names -= {"actions", "states"}
    if not every_frame:
        names -= {"actions"}
    return tuple(sorted(names))


def _stack(parts: list[dict[str, Tensor]], step: int) -> Clip:
    batch = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    own = {name: batch.pop(name) for name in ("frames", "sample_id", "epoch", "valid")}
    return Clip(**own, step=step, actions=batch.pop("actions", None), states=batch.pop("states", None), labels=batch)
