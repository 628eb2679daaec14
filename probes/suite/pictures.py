"""Pictures of what an encoder tells apart: neighbours of clips, principal components, where a probe looks."""

from collections.abc import Sequence

import numpy as np
from einops import rearrange
from sklearn.decomposition import PCA
from torch import Tensor

from jepa.models.encoder import Encoder
from jepa.pca_film import colours
from jepa.probes.clips import ClipSet
from jepa.probes.features import encode
from jepa.probes.kinds.base import Features
from jepa.probes.suite.measures import pooled
from jepa.probes.suite.retrieval import neighbours

Strip = tuple[str, np.ndarray]
"""A name and pictures (n, h, w, 3) uint8 that stand in a row."""

COLUMNS = 8  # pictures in a row, at most
NEIGHBOURS = 3
DIM = 0.35  # of a frame's brightness, where nobody looks


def stills(clip: Tensor, count: int = COLUMNS) -> np.ndarray:
    """Frames (T, 3, h, w) uint8 at even distances, the first and the last among them: (n, h, w, 3)."""
    shown = np.linspace(0, len(clip) - 1, min(count, len(clip))).round().astype(int)
    return clip[shown].permute(0, 2, 3, 1).numpy()


def nearest(encoder: Encoder, bank: ClipSet, queries: ClipSet) -> list[Strip]:
    """Each of a few clips, and below it the clips of `bank` that are nearest by pooled features, one an episode."""
    known = Features(pooled(encoder, bank.frames), bank.episodes)
    found = neighbours(known, pooled(encoder, queries.frames), NEIGHBOURS)
    strips = []
    for clip, rows in zip(queries.frames, found.tolist(), strict=True):
        strips.append(("clip", stills(clip)))
        strips += [(f"nearest {place}", stills(bank.frames[row])) for place, row in enumerate(rows, start=1)]
    return strips


def components(encoders: dict[str, Encoder], frames: Tensor, shown: int) -> list[Strip]:
    """Clips (B, T, 3, h, w) uint8 and their tokens by encoder, as the colours of three components fitted to all B.

    The first `shown` clips are drawn, one picture for each step in time.
    """
    strips: list[Strip] = []
    maps = {name: _component_maps(encoder, frames, shown) for name, encoder in encoders.items()}
    for i, clip in enumerate(frames[:shown]):
        steps = min(COLUMNS, *(len(m[i]) for m, _ in maps.values()))
        strips.append((f"clip {i + 1}", stills(clip, steps)))
        strips += [(f"{name} ({share:.0%} of variance)", _spaced(m[i], steps)) for name, (m, share) in maps.items()]
    return strips


def looks(weights: Tensor, encoder: Encoder, frames: Tensor, names: Sequence[str]) -> list[Strip]:
    """Clips (B, T, 3, h, w) uint8 under the attention (B, K) of a probe: where it is most is bright, where least dim.

    How many times more than the same for all tokens the most is, the strip's name says.
    """
    strips = []
    t, rows, _ = encoder.grid(frames.shape[1], *frames.shape[-2:])
    maps = rearrange(weights, "b (t r c) -> b t r c", t=t, r=rows)
    for name, clip, heat in zip(names, frames, maps.numpy(), strict=True):
        steps = min(COLUMNS, t)
        seen = stills(clip, steps)
        share = (heat - heat.min()) / max(heat.max() - heat.min(), 1e-12)
        light = _spaced(_enlarged(share, seen.shape[1]), steps)[..., None]
        strips.append((name, seen))
        strips.append(
            (
                f"attention (up to {heat.max() / heat.mean():.1f} × even)",
                (seen * (DIM + (1 - DIM) * light)).astype(np.uint8),
            )
        )
    return strips


def _component_maps(encoder: Encoder, frames: Tensor, shown: int) -> tuple[list[np.ndarray], float]:
    """Colours (t, h, w, 3) uint8 of each clip's tokens, and the share of variance that the components carry."""
    t, rows, _ = encoder.grid(frames.shape[1], *frames.shape[-2:])
    tokens = encode(encoder, frames)
    fitted = PCA(3, svd_solver="covariance_eigh").fit(tokens.flatten(0, 1).double().numpy())
    drawn = [rearrange(colours(x, fitted), "(t r c) rgb -> t r c rgb", t=t, r=rows) for x in tokens[:shown]]
    return [_enlarged(x, frames.shape[-2]) for x in drawn], float(fitted.explained_variance_ratio_.sum())


def _enlarged(maps: np.ndarray, height: int) -> np.ndarray:
    """Maps (t, rows, columns, …) with every cell as large as its patch of a picture of that height."""
    cell = height // maps.shape[1]
    return maps.repeat(cell, 1).repeat(cell, 2)


def _spaced(pictures: np.ndarray, count: int) -> np.ndarray:
    return pictures[np.linspace(0, len(pictures) - 1, count).round().astype(int)]
