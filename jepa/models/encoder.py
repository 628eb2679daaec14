"""The video encoder: tubelets -> ViT with 3-D RoPE (V-JEPA 2, arXiv 2506.09985, §2.1)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from jepa.data.transforms import normalize
from jepa.models.layers import Block, check_heads, init_weights, norm_features
from jepa.models.rope import positions, rope_table


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of the encoder; the defaults are ViT-L/16 at 256 px."""

    size: int = 256
    patch: int = 16
    tubelet: int = 2
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    rope_layout: str = "interleaved"


class PatchEmbed(nn.Module):
    """Linear embedding of tubelets. Held as a Conv3d for its name and shape, applied to gathered patches only."""

    def __init__(self, patch: int, tubelet: int, width: int) -> None:
        super().__init__()
        self.patch, self.tubelet = patch, tubelet
        self.proj = nn.Conv3d(3, width, (tubelet, patch, patch), (tubelet, patch, patch))

    def forward(self, frames: Tensor, keep: Tensor | None) -> Tensor:  # (B,T,3,h,w), (B,K) -> (B,K,D)
        x = rearrange(
            frames,
            "b (t tt) c (h ph) (w pw) -> b (t h w) (c tt ph pw)",
            tt=self.tubelet,
            ph=self.patch,
            pw=self.patch,
        )
        if keep is not None:
            x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)


class Encoder(nn.Module):
    """Frames (B, T, 3, h, w), ImageNet-normalised -> tokens (B, t·N, D); with `keep` (B, K) only those, (B, K, D).

    Any T that is a multiple of the tubelet and any h, w that are multiples of the patch will do: positions come
    from the input. Raises ValueError for other shapes.
    """

    def __init__(self, config: EncoderConfig, generator: torch.Generator) -> None:
        super().__init__()
        check_heads(config.width, config.heads, "encoder")
        self.config = config
        self.embed_dim = config.width
        self.patch_embed = PatchEmbed(config.patch, config.tubelet, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        init_weights(self, self.blocks, generator)

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Token grid (t, rows, columns) of a clip of that many frames and pixels."""
        c = self.config
        if frames % c.tubelet or height % c.patch or width % c.patch or frames == 0:
            raise ValueError(
                f"a clip of {frames} frames of {height}×{width} px cannot be cut into tubelets of "
                f"{c.tubelet}×{c.patch}×{c.patch}: use multiples of these"
            )
        return frames // c.tubelet, height // c.patch, width // c.patch

    def forward(self, frames: Tensor, keep: Tensor | None = None) -> Tensor:
        grid = self.grid(frames.shape[1], *frames.shape[-2:])
        x = self.patch_embed(frames, keep)  # (B, K, D)
        ids = torch.arange(grid[0] * grid[1] * grid[2], device=x.device)[None] if keep is None else keep
        rope = rope_table(positions(ids, grid), self.config.width // self.config.heads, self.config.rope_layout)
        for block in self.blocks:
            x = block(x, rope)
        return self.norm(x)


def build_encoder(config: EncoderConfig, seed: int) -> Encoder:
    """A randomly initialised encoder."""
    return Encoder(config, torch.Generator().manual_seed(seed))


@torch.no_grad()
def encode_frames(encoder: Encoder, frames: Tensor) -> Tensor:
    """Each uint8 frame of (B, T, C, h, w) alone, doubled to one tubelet -> layer-normed tokens (B, T, N, D).

    Source: V-JEPA 2-AC, arXiv 2506.09985, §3.1: the frozen encoder sees single frames.
    """
    batch, time = frames.shape[:2]
    still = repeat(frames, "b t c h w -> (b t) tt c h w", tt=encoder.config.tubelet)
    tokens = encoder(normalize(still))
    return rearrange(norm_features(tokens), "(b t) n d -> b t n d", b=batch, t=time)
