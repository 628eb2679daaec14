"""From a place (step, slot) of a run to one augmented clip: the part of loading that happens in the data workers."""

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from jepa.data import transforms
from jepa.data.augment import rand_augment
from jepa.data.clip import Spec
from jepa.data.config import DataConfig, Part
from jepa.data.decode import decode
from jepa.data.errors import DataError
from jepa.data.index import Entry, Manifest
from jepa.data.order import Mixture, order
from jepa.data.parallel import TOO_LATE, time_limit
from jepa.data.sampling import needed_frames, sample_frames
from jepa.data.shards import TIMES

BAD_IN_A_ROW = 20
LONGEST_CACHED = 1e9  # bytes of a decoded video before it is shrunk; a longer one would fill the memory
NONE = -1

Choose = Callable[[np.ndarray | None], tuple[np.ndarray, np.ndarray]]  # times or None -> ids (T), valid (T)


class Skipped(NamedTuple):
    """A sample that could not be read and was replaced by the next one of its epoch."""

    shard: str
    key: str
    reason: str


class Item(NamedTuple):
    """One clip without the batch dimension, and what was skipped to find it; `parts` None: nothing was found."""

    parts: dict[str, Tensor] | None
    skipped: tuple[Skipped, ...]


class Batch(NamedTuple):
    """Clips with the batch dimension, None where nothing was found for the last; and what was skipped for each."""

    parts: dict[str, Tensor] | None
    skipped: list[tuple[Skipped, ...]]


class Slots(Dataset):  # type: ignore[type-arg]
    """(step, slot) -> one augmented clip; keeps decoded videos as long as there is room."""

    def __init__(self, manifests: Sequence[Manifest], config: DataConfig, batch_size: int, seed: int) -> None:
        self.config, self.manifests, self.parts = config, tuple(manifests), config.parts
        self.usable = [_usable(m, part, config.short) for m, part in zip(manifests, self.parts, strict=True)]
        counts = [len(m) if ids is None else len(ids) for m, ids in zip(manifests, self.usable, strict=True)]
        self.left_out = sum(map(len, manifests)) - sum(counts)
        self.mixture = Mixture(
            samples=tuple(counts),
            batch_size=batch_size,
            seed=seed,
            weights=tuple(part.weight for part in self.parts),
            groups=tuple(part.frames for part in self.parts),  # type: ignore[misc]
        )
        self.first = np.cumsum([0, *map(len, manifests)]).tolist()  # sample ids count through all data sets
        self.names = shared_arrays(manifests, config)
        self.short_side = math.ceil(config.size / math.sqrt(config.crop_scale[0]))
        self.room = config.cache_gb * 1e9
        self.cache: dict[int, tuple[Tensor, dict[str, np.ndarray]]] = {}
        self.unreadable: dict[int, str] = {}  # by sample id: what workers hung at or died of
        self.deaths: Counter[int] = Counter()
        self.worker = 0
        self.begin()

    def __getitem__(self, place: tuple[int, int]) -> Item:
        skipped: list[Skipped] = []
        for k in range(BAD_IN_A_ROW):
            part, epoch, i = order(self.mixture, *place, replacement=k)
            if k >= self.mixture.samples[part]:
                break
            i = i if self.usable[part] is None else int(self.usable[part][i])
            try:
                return Item(self._watched(part, epoch, i), tuple(skipped))
            except DataError as error:
                skipped.append(Skipped(*self._name(part, i), str(error)))
        return Item(None, tuple(skipped))

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[Item]:
        """An item a place, up to the first for which nothing was found: where all is bad, the run stops soon."""
        items: list[Item] = []
        for place in places:
            items.append(self[place])
            if items[-1].parts is None:
                break
        return items

    def begin(self) -> None:
        """Called before workers start: a table of its own for them, for those they follow may still write to theirs."""
        # Which sample each worker reads, and its process: all that is left of one that was killed.
        self.reading = torch.full((max(1, self.config.workers), 2), NONE).share_memory_()

    def begin_worker(self, worker: int) -> None:
        """Called in each worker process."""
        self.worker = worker

    def note_deaths(self, exits: dict[int, int | None]) -> None:
        """What a worker hung at, or two died of, is unreadable; `exits` has each worker's exit code, None: it lives."""
        for sample_id, process in self.reading.tolist():
            if sample_id == NONE or exits.get(process) is None:
                continue
            self.deaths[sample_id] += 1
            if exits[process] == TOO_LATE:
                self.unreadable[sample_id] = f"took more than {self.config.timeout:g} s to read"
            elif self.deaths[sample_id] > 1:
                self.unreadable[sample_id] = "the data worker that read it died, twice"

    def _name(self, part: int, i: int) -> tuple[str, str]:
        """Shard and key of a sample, for the ledger."""
        try:
            entry = self.manifests[part][i]
            return entry.shard, entry.key
        except DataError:  # it is the index that is damaged
            return self.manifests[part].location, f"sample {i}"

    def _watched(self, part: int, epoch: int, i: int) -> dict[str, Tensor]:
        """`_clip`, unless it takes too long: then this worker ends, whatever a decoder is stuck in."""
        sample_id = self.first[part] + i
        if sample_id in self.unreadable:
            raise DataError(self.unreadable[sample_id])
        if not self.config.workers:
            return self._clip(part, epoch, i)
        self.reading[self.worker] = torch.tensor([sample_id, os.getpid()])
        try:
            with time_limit(self.config.timeout):
                return self._clip(part, epoch, i)
        finally:
            self.reading[self.worker] = NONE

    def _clip(self, part: int, epoch: int, i: int) -> dict[str, Tensor]:
        c, entry, sample_id = self.config, self.manifests[part][i], self.first[part] + i
        rng = transforms.generator(self.mixture.seed, epoch, sample_id)
        choose = partial(_choose, entry, self.parts[part], c.short, rng)
        ids, valid, frames, arrays = self._frames(part, entry, sample_id, choose)
        crop = transforms.random_crop(
            *frames.shape[-2:], scale=c.crop_scale, aspect=c.crop_aspect, hflip=c.hflip, rng=rng
        )
        frames = transforms.cut(frames, crop, c.size)
        parts = {"frames": rand_augment(frames, rng) if c.rand_augment else frames, "valid": torch.from_numpy(valid)}
        parts |= {"sample_id": torch.tensor(sample_id), "epoch": torch.tensor(epoch)}
        for name in self.names:
            if name == "label":
                parts[name] = torch.tensor(entry.label)
            elif name == "actions":
                parts[name] = torch.from_numpy(_between(arrays[name], ids, valid))
            else:
                parts[name] = torch.from_numpy(arrays[name][ids])
        return parts

    def _frames(
        self,
        part: int,
        entry: Entry,
        sample_id: int,
        choose: Choose,
    ) -> tuple[np.ndarray, np.ndarray, Tensor, dict[str, np.ndarray]]:
        """The chosen ids (T) and validity (T), those frames (T, 3, h, w), shrunk, and the whole arrays."""
        if sample_id not in self.cache:
            sample = self.manifests[part].read(entry.id)
            if not self._fits(entry):
                ids, valid = choose(sample.arrays.get(TIMES))
                return ids, valid, self._decode(sample.video, ids, entry.rotation), sample.arrays
            video = self._decode(sample.video, np.arange(entry.frames), entry.rotation)
            self.room -= video.nbytes
            # (T, h, w, 3): whole frames are copied 10 times faster so
            self.cache[sample_id] = video.permute(0, 2, 3, 1).contiguous(), sample.arrays
        video, arrays = self.cache[sample_id]
        ids, valid = choose(arrays.get(TIMES))
        return ids, valid, video.index_select(0, torch.from_numpy(ids)).permute(0, 3, 1, 2), arrays

    def _fits(self, entry: Entry) -> bool:
        """Whether the video may be cached."""
        height, width = transforms.shrunk_size(entry.height, entry.width, self.short_side)
        needed = entry.frames * height * width * 3
        return needed <= self.room and entry.frames * entry.height * entry.width * 3 <= LONGEST_CACHED

    def _decode(self, video: bytes, ids: np.ndarray, rotation: int) -> Tensor:
        frames = torch.from_numpy(decode(video, ids.tolist(), rotation=rotation)).permute(0, 3, 1, 2)
        return transforms.shrink(frames, self.short_side)


def shared_arrays(manifests: Sequence[Manifest], config: DataConfig) -> tuple[str, ...]:
    """Names of the arrays that every sample of every data set has and that hold for the clips `config` asks for."""
    names = set.intersection(*(set(manifest.arrays) for manifest in manifests))
    kinds = [_kinds(manifest.spec) for manifest in manifests]
    names = {name for name in names if all(kind.get(name) == kinds[0].get(name) for kind in kinds)}
    if config.hflip:
        names -= {"actions", "states"}
    if any(part.fps > 0 and m.spec.fps != part.fps for m, part in zip(manifests, config.parts, strict=True)):
        names -= {"actions"}
    classes = [kind.get("label") for kind in kinds]
    known = len(manifests) == 1 or classes[0] is not None  # a number means the same class in each of them
    if known and classes.count(classes[0]) == len(classes) and all(m.statistics["labelled"] for m in manifests):
        names |= {"label"}
    return tuple(sorted(names - {TIMES}))


def _kinds(spec: Spec) -> dict[str, object]:
    """What an array of each name means: data sets in which that differs cannot share it."""
    return {"actions": spec.action_units, "states": spec.state_units, **spec.extra, **spec.labels}


def _usable(manifest: Manifest, part: Part, short: str) -> np.ndarray | None:
    """The samples that are long enough, where short ones are skipped; None: all."""
    if short != "skip":
        return None
    rows = manifest.samples
    enough = rows["frames"] >= needed_frames(rows["fps"], frames=part.frames, fps=part.fps)
    if not enough.any():
        raise DataError(f"{manifest.location}: every video is shorter than a clip of {part.frames} frames")
    return None if enough.all() else np.flatnonzero(enough).astype(np.uint32)


def _choose(
    entry: Entry, part: Part, short: str, rng: np.random.Generator, times: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    return sample_frames(entry.frames, entry.fps, frames=part.frames, fps=part.fps, short=short, rng=rng, times=times)


def _between(actions: np.ndarray, ids: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Actions (T-1, A) from each frame to the next; 0 behind the video's end."""
    out = np.zeros((len(ids) - 1, *actions.shape[1:]), actions.dtype)
    there = np.flatnonzero(valid[1:])
    out[there] = actions[ids[:-1][there]]
    return out
