"""Raw pixels in place of an encoder: the row that says what a learned one is worth."""

from dataclasses import dataclass
from typing import ClassVar

from einops import rearrange
from torch import Tensor, nn


@dataclass(frozen=True)
class PixelEncoderConfig:
    """Frames of `size` pixels a side, cut into patches of `patch`. A tubelet is one frame."""

    size: int
    patch: int
    tubelet: ClassVar[int] = 1

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Token grid (t, rows, columns) of a clip. Raises ValueError for sides that are not whole patches."""
        if height % self.patch or width % self.patch:
            raise ValueError(f"frames of {height}×{width} are not whole patches of {self.patch} pixels")
        return frames, height // self.patch, width // self.patch


class PixelEncoder(nn.Module):
    """Frames (B, T, 3, h, w), ImageNet-normalised -> the pixels of each patch as a token (B, T·N, 3·patch²)."""

    def __init__(self, config: PixelEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = 3 * config.patch**2

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """As `PixelEncoderConfig.grid`."""
        return self.config.grid(frames, height, width)

    def forward(self, frames: Tensor) -> Tensor:
        self.grid(frames.shape[1], *frames.shape[-2:])
        p = self.config.patch
        return rearrange(frames, "b t c (h ph) (w pw) -> b (t h w) (c ph pw)", ph=p, pw=p)
