"""Is it well? RankMe and the spread of features over time on held-out clips, how far the target lags behind."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from jepa.config import ConfigError
from jepa.data.clip import Clip
from jepa.data.transforms import normalize
from jepa.engines.base import mean
from jepa.models.encoder import Encoder
from jepa.objectives.base import Objective


@dataclass(frozen=True)
class OnlineProbeConfig:
    """Probes of the target encoder while it trains, on a small labelled data set; none without `shards`.

    `task` is one of the tasks of `jepa probe` (`arrow` needs no labels), or `label`, the class of a whole recording.
    At most `clips` clips, `per_episode` of each, are drawn once, and kept in memory as pixels; a fifth of the episodes
    is to be predicted by a probe that is fitted on the others, every `every` steps and after the last.

    Raises ConfigError for numbers below 1.
    """

    shards: str = ""
    task: str = "arrow"
    per_episode: int = 2
    clips: int = 256
    every: int = 1000

    def __post_init__(self) -> None:
        for name in ("per_episode", "clips", "every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"probe.{name} {getattr(self, name)}: must be at least 1")


def rankme(pooled: Tensor) -> float:
    """Exponential of the entropy of the normalised singular values of centred features (n, D); 1 … min(n, D).

    Source: RankMe, arXiv 2210.02885, eq. 2; centred, so that a large common mean does not hide the rest. NaN of
    features that are not finite.
    """
    if not pooled.isfinite().all():
        return math.nan
    values = torch.linalg.svdvals((pooled - pooled.mean(0)).double())
    share = values / values.sum().clamp_min(1e-30)
    return torch.exp(-(share * share.clamp_min(1e-30).log()).sum()).item()


def std_over_time(tokens: Tensor) -> float:
    """Mean standard deviation over time of tokens (B, t, N, D), at a fixed position and channel.

    The usual spread over all tokens is inflated by position, which even a collapsed encoder tells apart.
    """
    return tokens.std(dim=1, correction=0).mean().item()


@torch.no_grad()
def measure(encoder: Encoder, clips: list[Clip]) -> dict[str, float]:
    """`rankme`, `std_over_time` and `std` (over clips, of pooled features) of an encoder on fixed clips."""
    pooled, spread = [], []
    like = next(encoder.parameters())
    for clip in clips:
        frames = normalize(clip.frames.to(like.device)).to(like.dtype)
        grid = encoder.grid(frames.shape[1], *frames.shape[-2:])
        tokens = encoder(frames).float()
        pooled.append(tokens.mean(1))
        spread.append(std_over_time(rearrange(tokens, "b (t n) d -> b t n d", t=grid[0])))
    features = torch.cat(pooled).cpu()
    return {
        "rankme": rankme(features),
        "std_over_time": sum(spread) / len(spread),
        "std": features.std(0).mean().item(),
    }


def ema_drift(objective: Objective, device: torch.device) -> float:
    """How far the target lags behind: |encoder - target| / |encoder| over all weights that are averaged.

    0 where there is no target. All processes call it together: each may hold a share of the weights.
    """
    ema = getattr(objective, "ema", None)
    if ema is None:
        return 0.0
    far, size = mean(list(ema.distance()), device)
    return math.sqrt(far / size)
