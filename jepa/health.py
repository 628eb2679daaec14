"""Is it collapsing? RankMe and the spread of features over time, on held-out clips."""

import torch
from einops import rearrange
from torch import Tensor

from jepa.data.clip import Clip
from jepa.data.transforms import normalize
from jepa.models.encoder import Encoder


def rankme(pooled: Tensor) -> float:
    """Exponential of the entropy of the normalised singular values of centred features (n, D); 1 … min(n, D).

    Source: RankMe, arXiv 2210.02885, eq. 2; centred, so that a large common mean does not hide the rest.
    """
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
    device = next(encoder.parameters()).device
    for clip in clips:
        frames = normalize(clip.frames.to(device))
        grid = encoder.grid(frames.shape[1], *frames.shape[-2:])
        tokens = encoder(frames)
        pooled.append(tokens.mean(1))
        spread.append(std_over_time(rearrange(tokens, "b (t n) d -> b t n d", t=grid[0])))
    features = torch.cat(pooled).cpu()
    return {
        "rankme": rankme(features),
        "std_over_time": sum(spread) / len(spread),
        "std": features.std(0).mean().item(),
    }
