"""Clips of a probe: drawn from packed episodes by a seed, not augmented, kept with their labels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jepa.data import transforms
from jepa.data.index import Manifest
from jepa.data.loader import read_frames
from jepa.probes.kinds.base import ProbeError
from jepa.probes.labels import Labels
from jepa.probes.store import Store, digest, open_at, reopen
from jepa.runs import read_cache, write_cache

FRAME_IDS = "frame_ids"
"""The array that every clip has: the numbers of its frames in their episode."""

_UNREADABLE = "not readable; remove {} and start again"


@dataclass(frozen=True)
class ClipSpec:
    """Which clips: `frames` at `fps` (<= 0: every frame), `size` px square, so many an episode and in all."""

    frames: int
    fps: float
    size: int
    per_episode: int
    max_clips: int


@dataclass(frozen=True)
class Episodes:
    """Some of the episodes of a packed folder: the train or the test side of a split. `labels` are the user's own."""

    manifest: Manifest
    ids: tuple[int, ...]
    labels: Labels | None = None

    def arrays(self) -> set[str]:
        """Names of the per-frame arrays that all of them have."""
        return self.packed() | set(self.labels.arrays if self.labels else ())

    def packed(self) -> set[str]:
        """Those that lie in the shards."""
        return set(self.manifest.arrays) - {"actions"}


@dataclass(frozen=True)
class ClipSet:
    """Clips with the episode of each, a seeded coin for tasks that change clips by chance, and their labels."""

    frames: Tensor  # (B, T, 3, h, w) uint8, mapped from the disk where they come from there
    episodes: Tensor  # (B) int64
    coins: Tensor  # (B) float64 in [0, 1)
    arrays: dict[str, Tensor]  # (B, T, ...), among them `frame_ids`


@dataclass(frozen=True)
class Window:
    """One clip before it is decoded: frames of an episode, and its coin."""

    episode: int
    frame_ids: np.ndarray  # (T)
    coin: float


def open_split(train: str, test: str, seed: int) -> tuple[Episodes, Episodes]:
    """Train and test episodes; without a test folder, a seeded 80/20 split of the train folder's.

    Raises:
        DataError: a folder is not a packed data set.
        ProbeError: the folders share a video, or there are fewer than 3 episodes to split.
    """
    manifest = Manifest.load(train)
    if test:
        other = Manifest.load(test)
        if shared := _videos(manifest).keys() & _videos(other).keys():
            key = _videos(manifest)[shared.pop()]
            raise ProbeError(f"{train} and {test} share a video ('{key}'): a probe must be tested on others")
        return Episodes(manifest, tuple(range(len(manifest)))), Episodes(other, tuple(range(len(other))))
    if len(manifest) < 3:
        raise ProbeError(f"{train} has {len(manifest)} episodes; a split by episode needs at least 3")
    order = np.random.default_rng(seed).permutation(len(manifest)).tolist()
    held_out = max(1, round(0.2 * len(order)))
    return (
        Episodes(manifest, tuple(sorted(order[held_out:]))),
        Episodes(manifest, tuple(sorted(order[:held_out]))),
    )


def folds(episodes: Episodes, count: int, seed: int) -> list[tuple[int, ...]]:
    """The episodes to test on in each of `count` folds, drawn by `seed`: every episode is in one of them.

    Raises:
        ProbeError: too few episodes to fit and validate on beside those of a fold.
    """
    if len(episodes.ids) < count or len(episodes.ids) < 4:
        where = episodes.manifest.location
        raise ProbeError(f"{where} has {len(episodes.ids)} episodes, too few for {count} folds; lower folds=…")
    order = np.random.default_rng((seed, count)).permutation(episodes.ids)
    return [tuple(sorted(part.tolist())) for part in np.array_split(order, count)]


def draw_windows(episodes: Episodes, spec: ClipSpec, seed: int) -> list[Window]:
    """The clips of one seed, ordered by episode; an episode shorter than a clip gives none (see `too_short`).

    Raises:
        ProbeError: no episode is long enough.
    """
    windows = []
    for i in episodes.ids:
        offsets = _offsets(episodes, i, spec)
        starts = episodes.manifest[i].frames - int(offsets[-1])
        rng = np.random.default_rng((seed, i))
        if starts > 0:
            chosen = np.sort(rng.permutation(starts)[: spec.per_episode])
            windows += [Window(i, s + offsets, float(rng.random())) for s in chosen]
    if not windows:
        raise ProbeError(
            f"{episodes.manifest.location}: no episode has {spec.frames} frames at {spec.fps} fps; lower frames"
        )
    rng = np.random.default_rng((seed, len(windows)))
    kept = np.sort(rng.permutation(len(windows))[: spec.max_clips])
    return [windows[k] for k in kept]


def too_short(episodes: Episodes, spec: ClipSpec) -> list[str]:
    """Keys of the episodes that are shorter than a clip, of which there is none."""
    entries = ((episodes.manifest[i], int(_offsets(episodes, i, spec)[-1])) for i in episodes.ids)
    return [entry.key for entry, last in entries if entry.frames <= last]


def make_clips(
    cache: Path, episodes: Episodes, spec: ClipSpec, seeds: Sequence[int], progress: Callable[[int], None]
) -> dict[int, Path]:
    """One file of clips for each seed, made unless it is in `cache`; every episode is decoded once for all.

    Frames lie in a store beside it, and those of one episode are in memory at a time. Own labels lie in a file of
    theirs, so that other labels are no reason to decode and encode again. `progress` is told how many episodes are
    done.

    Raises:
        DataError: a video cannot be read; names shard and key.
        ProbeError: the disk has no room.
    """
    index = episodes.manifest.sha256
    paths = {s: cache / f"clips-{digest('apart', index, episodes.ids, asdict(spec), s)}.safetensors" for s in seeds}
    windows = {s: draw_windows(episodes, spec, s) for s, path in paths.items() if not path.is_file()}
    stores = {s: _frame_store(paths[s], len(windows[s]), spec) for s in windows}
    mine = {s: {i: list(own) for i, own in groupby(windows[s], lambda w: w.episode)} for s in windows}
    parts: dict[int, list[dict[str, Tensor]]] = {s: [] for s in windows}
    written = dict.fromkeys(windows, 0)
    for done, i in enumerate(episodes.ids if windows else ()):
        progress(done)
        for seed, frames, rest in _read(episodes, i, {s: mine[s].get(i, []) for s in windows}, spec.size):
            stores[seed].write(range(written[seed], written[seed] + len(frames)), frames)
            written[seed] += len(frames)
            parts[seed].append(rest)
    progress(len(episodes.ids))
    for seed, found in parts.items():
        tensors = {k: torch.cat([part[k] for part in found]) for k in found[0]}
        write_cache(paths[seed], paths[seed].stem, tensors)
    return {seed: _labelled(path, episodes) for seed, path in paths.items()}


def load_clips(path: Path) -> ClipSet:
    """Clips that `make_clips` wrote, with their own labels if they have any. Frames are read when they are indexed.

    Raises:
        ProbeError: a file is damaged or gone.
    """
    tensors = _read_file(unlabelled(path))
    if path != unlabelled(path):
        tensors |= _read_file(path)
    try:
        frames = reopen(_frames_folder(unlabelled(path))).values
    except (OSError, RuntimeError, ValueError, KeyError) as error:  # RuntimeError: torch's, of a file cut short
        raise ProbeError(f"{_frames_folder(unlabelled(path))}: {_UNREADABLE.format(path.parent)}") from error
    own = {k: tensors.pop(k) for k in ("episodes", "coins")}
    return ClipSet(frames, **own, arrays={k.removeprefix("array."): v for k, v in tensors.items()})


def unlabelled(path: Path) -> Path:
    """The file of the clips themselves, which decides their features; `path` is theirs or that of their own labels."""
    return path.with_name(path.stem.split("+")[0] + path.suffix)


def _labelled(path: Path, episodes: Episodes) -> Path:
    """The file of the own labels of a file of clips, written unless it is there; without labels the file itself."""
    if episodes.labels is None:
        return path
    target = path.with_name(f"{path.stem}+{episodes.labels.sha256[:12]}{path.suffix}")
    if not target.is_file():
        clips = load_clips(path)
        keys = [episodes.manifest[i].key for i in clips.episodes.tolist()]
        own = episodes.labels.of(keys, clips.arrays[FRAME_IDS])
        write_cache(target, target.stem, {f"array.{name}": values for name, values in own.items()})
    return target


def _read_file(path: Path) -> dict[str, Tensor]:
    tensors = read_cache(path, path.stem)
    if tensors is None:
        raise ProbeError(f"{path}: {_UNREADABLE.format(path.parent)}")
    return tensors


def _frame_store(path: Path, clips: int, spec: ClipSpec) -> Store:
    """Where the frames of a file of clips lie, (clips, T, 3, h, w) uint8."""
    shape = (spec.frames, 3, spec.size, spec.size)
    return open_at(_frames_folder(path), {"clips": path.stem}, clips, shape, torch.uint8)


def _frames_folder(path: Path) -> Path:
    return path.parent / "frames" / path.stem


def _offsets(episodes: Episodes, i: int, spec: ClipSpec) -> np.ndarray:
    """How many frames of episode `i` after its first each frame of a clip lies, (T)."""
    step = episodes.manifest[i].fps / spec.fps if spec.fps > 0 else 1.0
    return np.rint(np.arange(spec.frames) * step).astype(np.int64)


def _read(
    episodes: Episodes, i: int, windows: dict[int, list[Window]], size: int
) -> Iterator[tuple[int, Tensor, dict[str, Tensor]]]:
    """(seed, frames (n, T, 3, h, w), all else) of the windows of episode `i`, from one decoding of their frames."""
    needed = sorted({int(f) for ws in windows.values() for w in ws for f in w.frame_ids})
    if not needed:
        return
    pixels, sample = read_frames(episodes.manifest, i, needed)
    frames = transforms.cut(pixels, transforms.centre_crop(*pixels.shape[-2:]), size)
    for seed, own in windows.items():
        if not own:
            continue
        ids = np.stack([window.frame_ids for window in own])  # (n, T)
        arrays = {f"array.{n}": torch.from_numpy(sample.arrays[n][ids]) for n in sorted(episodes.packed())}
        yield (
            seed,
            frames[torch.from_numpy(np.searchsorted(needed, ids))],
            {
                "episodes": torch.full((len(own),), i),
                "coins": torch.tensor([window.coin for window in own], dtype=torch.float64),
                f"array.{FRAME_IDS}": torch.from_numpy(ids),
                **arrays,
            },
        )


def _videos(manifest: Manifest) -> dict[str, str]:
    """sha256 -> key of every video."""
    found = {}
    for entry in manifest:
        name = next(ext for ext in entry.members if ext != "json" and not ext.endswith(".npy"))
        found[entry.members[name][2]] = entry.key
    return found
