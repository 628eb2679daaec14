"""Clips of a probe: drawn from packed episodes by a seed, not augmented, kept with their labels."""

import hashlib
import json
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
from jepa.runs import read_cache, write_cache


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
    """Some of the episodes of a packed folder: the train or the test side of a split."""

    manifest: Manifest
    ids: tuple[int, ...]

    def arrays(self) -> set[str]:
        """Names of the per-frame arrays that all of them have."""
        return set(self.manifest.arrays) - {"actions"}


@dataclass(frozen=True)
class ClipSet:
    """Clips with the episode of each, a seeded coin for those played backwards, and their labels."""

    frames: Tensor  # (B, T, 3, h, w) uint8
    episodes: Tensor  # (B) int64
    backwards: Tensor  # (B) bool
    arrays: dict[str, Tensor]  # (B, T, ...)


@dataclass(frozen=True)
class Window:
    """One clip before it is decoded: frames of an episode, and its coin."""

    episode: int
    frame_ids: np.ndarray  # (T)
    backwards: bool


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
            windows += [Window(i, s + offsets, bool(rng.random() < 0.5)) for s in chosen]
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

    `progress` is told how many episodes are done.

    Raises:
        DataError: a video cannot be read; names shard and key.
    """
    index = episodes.manifest.sha256
    paths = {s: cache / f"clips-{digest(index, episodes.ids, asdict(spec), s)}.safetensors" for s in seeds}
    windows = {s: draw_windows(episodes, spec, s) for s, path in paths.items() if not path.is_file()}
    names = sorted(episodes.arrays())
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
    return paths


def load_clips(path: Path) -> ClipSet:
    """Clips that `make_clips` wrote."""
    tensors = read_cache(path, path.stem)
    if tensors is None:
        raise ProbeError(f"{path}: not readable; remove {path.parent} and start again")
    own = {k: tensors.pop(k) for k in ("frames", "episodes", "backwards")}
    return ClipSet(**own, arrays={k.removeprefix("array."): v for k, v in tensors.items()})


def digest(*parts: object) -> str:
    """A name for what JSON-able parts determine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


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
                    "backwards": torch.tensor(window.backwards),
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
