"""What features are worth without any label: effective ranks, decay of the spectrum, spread over time and place."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from jepa.data import transforms
from jepa.health import rankme, std_over_time
from jepa.models.encoder import Encoder
from jepa.models.image_encoder import ImageEncoder
from jepa.probes.features import BATCH, encode

RIDGE = 1e-4  # LiDAR: added to the spread within classes
SCALE, ASPECT = (0.3, 1.0), (3 / 4, 4 / 3)  # of the boxes that views are cut from: share of the area, width / height


@dataclass(frozen=True)
class Measures:
    """Of one encoder on clips: `rank` is the most that RankMe can be, `lidar_rank` the most of LiDAR."""

    rankme: float
    rank: int
    alpha: float
    lidar: float
    lidar_rank: int
    over_time: float
    over_positions: float
    over_clips: float


def alpha_req(features: Tensor) -> float:
    """Exponent α of the decay λ_j ∝ j^-α of the covariance's eigenvalues, of features (n, D); NaN where none varies.

    The slope of log λ over log j, each j weighing 1/j, so that every octave counts alike; over the larger half of the
    eigenvalues, for the smaller are bent by the number of clips. Near 1 is best; far above, few directions carry
    everything (α-ReQ, Agrawal et al., NeurIPS 2022; arXiv 2202.05808).
    """
    values = torch.linalg.svdvals((features - features.mean(0)).double()) ** 2
    values = values[: max(2, min(len(features) - 1, features.shape[1]) // 2)]
    values = values[values > 1e-12 * values[0]]
    if len(values) < 2:
        return math.nan
    index = torch.arange(1, len(values) + 1, dtype=torch.float64)
    x, y, weight = index.log(), values.log(), 1 / index / (1 / index).sum()
    x, y = x - (weight * x).sum(), y - (weight * y).sum()
    return -((weight * x * y).sum() / (weight * x * x).sum()).item()


def lidar(views: Tensor) -> float:
    """Effective rank of the linear discriminants that tell clips apart across their views (n, V, D); 1 … min(n-1, D).

    The spread between the clips' means is whitened by the spread of views within clips: a direction that only views
    differ in does not count. Exponential of the entropy of its eigenvalues' shares (LiDAR, arXiv 2312.04000, eq. 1-3).
    """
    x = views.double()
    means = x.mean(1)  # (n, D)
    between = torch.cov(means.T, correction=0)
    apart = (x - means[:, None]).flatten(0, 1)
    within = apart.T @ apart / len(apart) + RIDGE * torch.eye(x.shape[-1], dtype=x.dtype)
    power, turn = torch.linalg.eigh(within)
    white = turn / power.sqrt()
    values = torch.linalg.eigvalsh(white.T @ between @ white).clamp_min(0)
    share = values / values.sum().clamp_min(1e-30)
    return torch.exp(-(share * share.clamp_min(1e-30).log()).sum()).item()


def std_over_positions(tokens: Tensor) -> float:
    """Mean standard deviation over places of tokens (B, t, N, D), at a fixed time and channel."""
    return tokens.std(dim=2, correction=0).mean().item()


def make_views(frames: Tensor, count: int, seed: int) -> Tensor:
    """`count` random boxes of each clip (B, T, 3, h, w) uint8, resized, half of them mirrored: (B, V, T, 3, h, w)."""
    height, width = frames.shape[-2:]
    shown = []
    for number, clip in enumerate(frames):
        rng = np.random.default_rng((seed, number))
        boxes = [
            transforms.random_crop(height, width, scale=SCALE, aspect=ASPECT, hflip=True, rng=rng) for _ in range(count)
        ]
        shown.append(torch.stack([transforms.cut(clip, box, width) for box in boxes]))
    return torch.stack(shown)


def pooled(encoder: Encoder | ImageEncoder, frames: Tensor) -> Tensor:
    """uint8 frames (B, T, 3, h, w) -> mean over tokens (B, D); no more than a few clips' tokens are held."""
    return torch.cat([encode(encoder, part).mean(1) for part in frames.split(BATCH)])


def measure(encoder: Encoder | ImageEncoder, frames: Tensor, views: Tensor) -> Measures:
    """All measures of an encoder on square clips (B, T, 3, h, w) uint8 and views of some clips (n, V, T, 3, h, w)."""
    means, spreads = [], []
    for part in frames.split(BATCH):  # tokens of a few clips at a time are held
        grid = encoder.grid(part.shape[1], *part.shape[-2:])
        tokens = rearrange(encode(encoder, part), "b (t n) d -> b t n d", t=grid[0])
        means.append(tokens.mean((1, 2)))
        spreads.append((len(part), std_over_time(tokens), std_over_positions(tokens)))
    counts, over_time, over_positions = np.array(spreads).T
    features, seen = torch.cat(means), pooled(encoder, views.flatten(0, 1))
    clips, width = len(frames), features.shape[1]
    return Measures(
        rankme=rankme(features),
        rank=min(clips - 1, width),
        alpha=alpha_req(features),
        lidar=lidar(seen.view(*views.shape[:2], width)),
        lidar_rank=min(len(views) - 1, width),
        over_time=float(np.average(over_time, weights=counts)),
        over_positions=float(np.average(over_positions, weights=counts)),
        over_clips=features.std(0, correction=0).mean().item(),
    )
