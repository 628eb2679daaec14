"""The video encoder: tubelets -> ViT with 3-D RoPE (V-JEPA 2, arXiv 2506.09985, §2.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from jepa.data.transforms import normalize
from jepa.models.checkpointing import check_mode, run_block
from jepa.models.layers import Block, DropPath, Parts, check_heads, init_weights, norm_features
from jepa.models.pixel_encoder import PixelEncoder
from jepa.models.rope import Rope, positions

_REFERENCE_PX = 256  # V-JEPA 2.1 interpolates positions to the grid of this size: 16 for patch 16, 18 for patch 14

Keep = Tensor | Sequence[Tensor] | None
"""Ids (B, K) of the tokens to encode, None for all; or several of them."""


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of the encoder; the defaults are ViT-L/16 at 256 px. `SIZES` of `jepa.models.sizes` has the others.

    `rope_interpolate` stretches rows and columns to the grid of a 256 px clip, as V-JEPA 2.1 does. `rope_bf16`
    reproduces the angles of training under bf16 autocast. `drop_path` is the rate of the last block, 0 at the first.
    `checkpointing` trades time for memory in training: none, selective (repeats what is cheap) or full.
    """

    size: int = 256
    patch: int = 16
    tubelet: int = 2
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    rope_layout: str = "interleaved"
    rope_interpolate: bool = False
    rope_bf16: bool = False
    swiglu: bool = False
    drop_path: float = 0.0
    checkpointing: str = "none"

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Token grid (t, rows, columns) of a clip of that many frames and pixels; ValueError where it has none."""
        frames = self.tubelet if frames == 1 else frames
        if frames % self.tubelet or height % self.patch or width % self.patch or frames == 0:
            raise ValueError(
                f"a clip of {frames} frames of {height}×{width} px cannot be cut into tubelets of "
                f"{self.tubelet}×{self.patch}×{self.patch}: use multiples of these"
            )
        return frames // self.tubelet, height // self.patch, width // self.patch


class PatchEmbed(nn.Module):
    """Linear embedding of tubelets. Held as a Conv3d for its name and shape, applied to gathered patches only."""

    def __init__(self, patch: int, tubelet: int, width: int) -> None:
        super().__init__()
        self.patch, self.tubelet = patch, tubelet
        self.proj = nn.Conv3d(3, width, (tubelet, patch, patch), (tubelet, patch, patch))

    def forward(self, frames: Tensor, keep: Tensor | None) -> Tensor:  # (B,T,3,h,w), (B,K) -> (B,K,D)
        if frames.shape[1] == 1:
            frames = frames.expand(-1, self.tubelet, -1, -1, -1)
        # Only a view: pixels are copied below, once, and those of other tokens never.
        x = rearrange(
            frames,
            "b (t tt) c (h ph) (w pw) -> b t h w c tt ph pw",
            tt=self.tubelet,
            ph=self.patch,
            pw=self.patch,
        )
        if keep is None:
            x = x.flatten(1, 3)
        else:
            clip = torch.arange(len(x), device=x.device)[:, None]
            grid = (x.shape[1], x.shape[2], x.shape[3])
            x = x[clip, *positions(keep, grid).unbind(-1)]
        return F.linear(x.flatten(2), self.proj.weight.flatten(1), self.proj.bias)


class Encoder(nn.Module):
    """Frames (B, T, 3, h, w), ImageNet-normalised -> tokens (B, t·N, D); with `keep` (B, K) only those, (B, K, D).

    With several `keep`, each is encoded as if alone, all in one pass: out come those of the first, then of the second.

    Any T that is a multiple of the tubelet and any h, w that are multiples of the patch will do: positions come
    from the input. An image, T = 1, is shown for one tubelet. Raises ValueError for other shapes.

    Drop path is drawn from the seed of `generator`, and only in training with gradients: a target is always whole.
    """

    def __init__(self, config: EncoderConfig, generator: torch.Generator) -> None:
        super().__init__()
        check_heads(config.width, config.heads, "encoder")
        check_mode(config.checkpointing)
        self.config = config
        self.embed_dim = config.width
        reference = _REFERENCE_PX // config.patch if config.rope_interpolate else 0
        self.rope = Rope(config.rope_layout, reference, config.rope_bf16)
        self.patch_embed = PatchEmbed(config.patch, config.tubelet, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio, config.swiglu) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        init_weights(self, self.blocks, generator)
        # The seed is read, not drawn: a draw would shift the weights of whatever is built after the encoder.
        self.drop_path = (
            DropPath(config.drop_path, config.depth, generator.initial_seed()) if config.drop_path else None
        )

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """As `EncoderConfig.grid`."""
        return self.config.grid(frames, height, width)

    def forward(self, frames: Tensor, keep: Keep = None, layers: Sequence[int] = ()) -> Tensor | list[Tensor]:
        """Tokens (B, K, D); with `layers` a list of the tokens after each of these blocks, through the final norm."""
        streams = self.blocks_out(frames, keep, layers or (len(self.blocks) - 1,))
        tokens = [self.norm(stream) for stream in streams]
        return tokens if layers else tokens[0]

    def blocks_out(
        self, frames: Tensor, keep: Keep, layers: Sequence[int], embed: PatchEmbed | None = None
    ) -> list[Tensor]:
        """The residual streams (B, K, D), not normed, after the blocks `layers`, counted from 0; none beyond them runs.

        `embed` takes the place of the encoder's own patch embedding. Raises ValueError for a layer that is not there.
        """
        if not all(0 <= layer < len(self.blocks) for layer in layers):
            raise ValueError(f"layers {list(layers)}: the encoder's blocks are numbered 0 to {len(self.blocks) - 1}")
        grid = self.grid(frames.shape[1], *frames.shape[-2:])
        parts: Parts = ()
        if keep is not None and not isinstance(keep, Tensor):
            parts, keep = [(0, ids.shape[1]) for ids in keep], torch.cat(tuple(keep), dim=1)
        x = (embed or self.patch_embed)(frames, keep)  # (B, K, D)
        ids = torch.arange(grid[0] * grid[1] * grid[2], device=x.device)[None] if keep is None else keep
        rope = self.rope.table(ids, grid, self.config.width // self.config.heads)
        dropping = self.drop_path if self.training and torch.is_grad_enabled() else None
        drops = None if dropping is None else _draw(dropping, x, parts)
        streams = {}
        for layer, block in enumerate(self.blocks[: max(layers) + 1]):
            drop = None if drops is None else drops[layer]
            x = run_block(block, self.config.checkpointing, x, rope, drop, parts)
            if layer in layers:
                streams[layer] = x
        return [streams[layer] for layer in layers]


def _draw(drop_path: DropPath, x: Tensor, parts: Parts) -> Tensor:
    """Scales (depth, 2, B, 1 or K, 1) for the tokens x (B, K, D), drawn for each part anew."""
    if not parts:
        return drop_path(x)
    return torch.cat([drop_path(x).expand(-1, -1, -1, count, -1) for _, count in parts], dim=3)


def build_encoder(config: EncoderConfig, seed: int) -> Encoder:
    """A randomly initialised encoder."""
    return Encoder(config, torch.Generator().manual_seed(seed))


@torch.no_grad()
def encode_frames(encoder: Encoder, frames: Tensor) -> Tensor:
    """Each uint8 frame of (B, T, C, h, w) alone, as an image -> layer-normed tokens (B, T, N, D).

    Raw pixels stay as they are: a patch of one colour has no spread to divide by, and its colour is what it says.
    Source: V-JEPA 2-AC, arXiv 2506.09985, §3.1: the frozen encoder sees single frames.
    """
    batch, time = frames.shape[:2]
    tokens = encoder(normalize(rearrange(frames, "b t c h w -> (b t) 1 c h w")))
    tokens = tokens if isinstance(encoder, PixelEncoder) else norm_features(tokens)
    return rearrange(tokens, "(b t) n d -> b t n d", b=batch, t=time)
