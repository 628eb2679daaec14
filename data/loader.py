"""Batches of augmented clips from shards; no rank, worker count or resume changes what a batch holds."""

import gc
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from jepa.data import transforms
from jepa.data.clip import Clip, Episode
from jepa.data.config import DataConfig
from jepa.data.decode import decode
from jepa.data.errors import DataError
from jepa.data.index import Manifest, Sample
from jepa.data.sampling import stride
from jepa.data.slots import Batch, Item, Skipped, Slots

BAD_LIMIT = 0.05  # share of the last BAD_WINDOW reads that may fail before a run stops
BAD_WINDOW = 1000
BAD_MINIMUM = 100  # reads before the share means anything
RESTARTS = 5  # times in a row that data workers may die before a run stops


def clips(
    manifests: Sequence[Manifest],
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

    `manifests` are the data sets of `config.parts`, in order. `batch_size` is global: with B = batch_size / world, a
    rank gets rows `rank * B .. (rank + 1) * B - 1`. Frames are sampled as V-JEPA 2 does (see `sampling`). `sample_id`
    counts through all data sets. `actions` are there only when every frame is taken (fps <= 0, or all videos have
    just this rate) and none is mirrored; behind a video's end they are 0. `states` too are there only when no frame
    is mirrored. Labels are never mirrored.

    Raises:
        DataError: batch_size does not divide by world, or videos are all too short; later, while iterating: too many
            unreadable samples.
    """
    if batch_size < 1 or batch_size % world or not 0 <= rank < world:
        raise DataError(f"batch size {batch_size} does not divide over {world} processes; choose a multiple")
    return Clips(Slots(manifests, config, batch_size, seed), range(start_step, steps), rank, world)


class Clips(Iterator[Clip]):
    """What `clips` returns. `skipped` lists every sample replaced so far on this rank, in order; `left_out` counts
    videos that are shorter than a clip, where these are not wanted.

    A worker that dies or hangs is replaced, and reading goes on with the batch that was due: it is a pure function of
    the step. A sample at which a worker hung, or died twice, is skipped from then on.
    """

    def __init__(self, slots: Slots, steps: range, rank: int, world: int) -> None:
        self.skipped: list[Skipped] = []
        self.left_out = slots.left_out
        self._slots, self._steps = slots, steps
        own = slots.mixture.batch_size // world
        self._own = range(rank * own, (rank + 1) * own)
        self._window: deque[bool] = deque(maxlen=BAD_WINDOW)
        self._restarts = 0
        self._workers: list[multiprocessing.process.BaseProcess] = []  # maybe with other children of this process
        self._batches = self._start()

    def __next__(self) -> Clip:
        parts, skipped = self._read()
        for of_clip in skipped:
            self.skipped += of_clip
            self._window.extend([True] * len(of_clip) + [False])
        if parts is None:
            self._stop(f"{len(skipped[-1])} samples in a row cannot be read; the first: {skipped[-1][0]}")
        bad = sum(self._window)
        if len(self._window) >= BAD_MINIMUM and bad > BAD_LIMIT * len(self._window):
            self._stop(
                f"{bad} of the last {len(self._window)} samples cannot be read (limit {BAD_LIMIT:.0%}); "
                f"the last: {self.skipped[-1]}"
            )
        step = self._steps.start
        self._steps = self._steps[1:]
        own = {name: parts.pop(name) for name in ("frames", "sample_id", "epoch", "valid")}
        return Clip(
            **own, step=step, actions=parts.pop("actions", None), states=parts.pop("states", None), labels=parts
        )

    def _stop(self, reason: str) -> NoReturn:
        self._batches = iter(())  # ends the workers now; found as garbage later, they would be waited for
        raise DataError(reason)

    def _read(self) -> Batch:
        while True:
            try:
                batch = next(self._batches)
                self._restarts = 0
                return batch
            except (RuntimeError, OSError, EOFError) as error:
                if not (self._workers and _of_a_dead_worker(error)):
                    raise
                self._restarts += 1
                self._slots.note_deaths({worker.pid: worker.exitcode for worker in self._workers if worker.pid})
                if self._restarts > RESTARTS:
                    self._stop(f"data workers died {self._restarts} times in a row: {error}")
            self._batches = iter(())  # ends the other workers, before there are as many again
            self._batches = self._start()

    def _start(self) -> Iterator[Batch]:
        self._slots.begin()
        workers = self._slots.config.workers
        if workers:
            gc.collect()  # PyAV's dead frames must not be freed in a fork: it has not the threads that they wait for
        batches = iter(
            DataLoader(
                self._slots,
                batch_sampler=_Places(self._steps, self._own),  # type: ignore[arg-type]
                num_workers=workers,
                collate_fn=_collate,
                worker_init_fn=self._slots.begin_worker,
                generator=torch.Generator().manual_seed(self._slots.mixture.seed),  # else it draws from the global one
            )
        )
        if workers:
            # torch would raise in the midst of whatever runs when a worker dies; we hear of it at the next batch
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._workers = multiprocessing.active_children()
        return batches


class _Places:
    """Batches of (step, slot) keys, this rank's share of every step; made on the fly: resume is free."""

    def __init__(self, steps: range, slots: range) -> None:
        self.steps, self.slots = steps, slots

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(step, slot) for slot in self.slots] for step in self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def episodes(
    manifest: Manifest, size: int, ids: Iterable[int] | None = None, fps: float = 0.0, crop: str = "centre"
) -> Iterator[Episode]:
    """The videos `ids` (None: all) whole, in order: frames cut to the centred box of `CROPS[crop]` and resized.

    With `fps`, every `sampling.stride`-th frame and row of the arrays; `actions` are there only where these are all.

    Raises:
        DataError: a video cannot be read; names shard and key.
    """
    for entry in manifest if ids is None else map(manifest.__getitem__, ids):
        step = int(stride(entry.fps, fps))
        frames, sample = read_frames(manifest, entry.id, range(0, entry.frames, step))
        box = transforms.centre_crop(*frames.shape[-2:], aspect=transforms.CROPS[crop])
        arrays = {name: values[::step] for name, values in sample.arrays.items() if step == 1 or name != "actions"}
        yield Episode(transforms.cut(frames, box, size), arrays, entry.id)


def read_frames(manifest: Manifest, i: int, ids: Sequence[int]) -> tuple[Tensor, Sample]:
    """The frames `ids` of sample `i`, upright: (T, 3, h, w) uint8; and all else that is stored of it.

    Raises:
        DataError: they cannot be read; names shard and key.
    """
    entry, sample = manifest[i], manifest.read(i)
    try:
        pixels = decode(sample.video, ids, rotation=entry.rotation)
    except DataError as error:
        raise DataError(f"{entry.shard}: {entry.key}: {error}") from error
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), sample


def _of_a_dead_worker(error: Exception) -> bool:
    """Whether torch says that one died, or one died while it handed a batch over; not what was raised in a worker."""
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker (pid")
    return not str(error).startswith("Caught ")  # as torch begins what it hands on from workers


def _collate(items: list[Item]) -> Batch:
    """In the worker: a message to this process is then short, and whole or not there at all when a worker is killed."""
    found = [item.parts for item in items if item.parts is not None]
    whole = len(found) == len(items)
    parts = {name: torch.stack([part[name] for part in found]) for name in found[0]} if whole else None
    return Batch(parts, [item.skipped for item in items])
