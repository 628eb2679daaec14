"""Clips of a probe: drawn from packed episodes by a seed, not augmented, kept with their labels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jepa.data import transforms
from jepa.data.index import Manifest
from jepa.data.loader import read_frames
from jepa.probes.kinds.base import ProbeError
from jepa.probes.labels import Labels
from jepa.probes.store import digest
from jepa.runs import read_cache, write_cache

FRAME_IDS = "frame_ids"
"""The array that every clip has: the numbers of its frames in their episode."""


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

    frames: Tensor  # (B, T, 3, h, w) uint8
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
    """The clips of one seed, ordered by episode; an episode shorter than a clip gives none.

    Raises:
        ProbeError: no episode is long enough.
    """
    windows = []
    for i in episodes.ids:
        entry = episodes.manifest[i]
        step = entry.fps / spec.fps if spec.fps > 0 else 1.0
        offsets = np.rint(np.arange(spec.frames) * step).astype(np.int64)
        starts = entry.frames - int(offsets[-1])
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


def make_clips(
    cache: Path, episodes: Episodes, spec: ClipSpec, seeds: Sequence[int], progress: Callable[[int], None]
) -> dict[int, Path]:
    """One file of clips for each seed, made unless it is in `cache`; every episode is decoded once for all.

    Own labels lie in a file beside it, so that other labels are no reason to decode and encode again.
    `progress` is told how many episodes are done.

    Raises:
        DataError: a video cannot be read; names shard and key.
    """
    index = episodes.manifest.sha256
    paths = {s: cache / f"clips-{digest('coins', index, episodes.ids, asdict(spec), s)}.safetensors" for s in seeds}
    windows = {s: draw_windows(episodes, spec, s) for s, path in paths.items() if not path.is_file()}
    names = sorted(episodes.packed())
    parts: dict[int, list[dict[str, Tensor]]] = {s: [] for s in windows}
    for done, i in enumerate(episodes.ids if windows else ()):
        progress(done)
        mine = {s: [w for w in windows[s] if w.episode == i] for s in windows}
        for seed, part in _read(episodes, i, mine, spec.size, names):
            parts[seed].append(part)
    progress(len(episodes.ids))
    for seed, rows in parts.items():
        tensors = {k: torch.stack([row[k] for row in rows]) for k in rows[0]}
        write_cache(paths[seed], paths[seed].stem, tensors)
    return {seed: _labelled(path, episodes) for seed, path in paths.items()}


def load_clips(path: Path) -> ClipSet:
    """Clips that `make_clips` wrote, with their own labels if they have any.

    Raises:
        ProbeError: the file is damaged or gone.
    """
    tensors = _read_file(unlabelled(path))
    if path != unlabelled(path):
        tensors |= _read_file(path)
    own = {k: tensors.pop(k) for k in ("frames", "episodes", "coins")}
    return ClipSet(**own, arrays={k.removeprefix("array."): v for k, v in tensors.items()})


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
        raise ProbeError(f"{path}: not readable; remove {path.parent} and start again")
    return tensors


def _read(
    episodes: Episodes, i: int, windows: dict[int, list[Window]], size: int, names: list[str]
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """(seed, tensors of one clip) for every window of episode `i`, from one decoding of their frames."""
    needed = sorted({int(f) for ws in windows.values() for w in ws for f in w.frame_ids})
    if not needed:
        return
    pixels, sample = read_frames(episodes.manifest, i, needed)
    frames = transforms.cut(pixels, transforms.centre_crop(*pixels.shape[-2:]), size)
    for seed, own in windows.items():
        for window in own:
            arrays = {f"array.{n}": torch.from_numpy(sample.arrays[n][window.frame_ids]) for n in names}
            yield (
                seed,
                {
                    "frames": frames[torch.from_numpy(np.searchsorted(needed, window.frame_ids))],
                    "episodes": torch.tensor(i),
                    "coins": torch.tensor(window.coin, dtype=torch.float64),
                    f"array.{FRAME_IDS}": torch.from_numpy(window.frame_ids),
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
