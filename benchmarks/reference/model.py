"""The V-JEPA 2 encoder and predictor as the reference computes them, for benchmarks: plain, slow where it is slow.

Parameters have the names of `jepa.models`, so that weights can be copied. What the reference does and we do not:
every block makes its own rotary angles, for queries and keys and each axis apart, and repeats the positions over heads
where tokens are masked; every token is embedded before the kept ones are gathered; the predictor sorts its tokens.
Where the reading leaves a choice, the cheaper one is taken.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """Turn the channel pairs of x (B, heads, K, a) by position (K) or (B, heads, K); frequencies tiled."""
    half = x.shape[-1] // 2
    frequency = 1.0 / 10000 ** (torch.arange(half, dtype=x.dtype, device=x.device) / half)
    angle = position[..., None] * frequency
    sin, cos = (torch.cat((part, part), dim=-1) for part in (angle.sin(), angle.cos()))
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack((-odd, even), dim=-1).flatten(-2) * sin


class Attention(nn.Module):
    """Self-attention (SDPA) that works out positions and angles anew at every call."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, int, int], keep: Tensor | None) -> Tensor:  # (B, K, D)
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, dim // self.heads)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]  # (B, heads, K, hd)
        ids = torch.arange(tokens, device=x.device) if keep is None else keep.unsqueeze(1).repeat(1, self.heads, 1)
        plane, row = grid[1] * grid[2], grid[2]
        time = ids // plane
        height = (ids - time * plane) // row
        width = ids - time * plane - height * row
        axis = 2 * (dim // self.heads // 3 // 2)
        q, k = (self._turn(part, axis, (time, height, width)) for part in (q, k))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, dim))

    @staticmethod
    def _turn(x: Tensor, axis: int, places: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        parts = [rotate(x[..., i * axis : (i + 1) * axis], place) for i, place in enumerate(places)]
        return torch.cat([*parts, x[..., 3 * axis :]], dim=-1)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, grid: tuple[int, int, int], keep: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), grid, keep)
        return x + self.mlp(self.norm2(x))


def run_blocks(
    blocks: nn.ModuleList, x: Tensor, grid: tuple[int, int, int], keep: Tensor | None, recompute: bool
) -> Tensor:
    """All blocks in turn; `recompute` keeps only their inputs for the backward pass."""
    for block in blocks:
        save = recompute and torch.is_grad_enabled()
        x = checkpoint(block, x, grid, keep, use_reentrant=False) if save else block(x, grid, keep)
    return x


def gather(x: Tensor, ids: Tensor) -> Tensor:
    """Tokens x (B, N, D) at ids (B, K) -> (B, K, D)."""
    return x.gather(1, ids[..., None].expand(-1, -1, x.shape[-1]))


class PatchEmbed(nn.Module):
    """Conv3d over the whole clip."""

    def __init__(self, patch: int, tubelet: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, width, (tubelet, patch, patch), (tubelet, patch, patch))

    def forward(self, frames: Tensor) -> Tensor:  # (B, T, 3, h, w) -> (B, N, D)
        return self.proj(frames.transpose(1, 2)).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """Frames (B, T, 3, h, w) -> tokens (B, N, D), or (B, K, D) with `keep` (B, K); all are embedded, then gathered."""

    def __init__(self, patch: int, tubelet: int, width: int, depth: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.cell = (tubelet, patch, patch)
        self.recompute = False
        self.patch_embed = PatchEmbed(patch, tubelet, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def grid(self, frames: Tensor) -> tuple[int, int, int]:
        """Token grid (t, rows, columns) of the clips."""
        time, rows, columns = (
            size // cell for size, cell in zip((frames.shape[1], *frames.shape[-2:]), self.cell, strict=True)
        )
        return time, rows, columns

    def forward(self, frames: Tensor, keep: Tensor | None = None) -> Tensor:
        x = self.patch_embed(frames)
        if keep is not None:
            x = gather(x, keep)
        return self.norm(run_blocks(self.blocks, x, self.grid(frames), keep, self.recompute))


class Predictor(nn.Module):
    """Context and mask tokens, sorted into raster order row by row, through the blocks and back."""

    def __init__(self, embed_dim: int, mask_tokens: int, width: int, depth: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.recompute = False
        self.predictor_embed = nn.Linear(embed_dim, width)
        self.mask_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, width)) for _ in range(mask_tokens))
        self.predictor_blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(width, eps=1e-6)
        self.predictor_proj = nn.Linear(width, embed_dim)

    def forward(
        self, context: Tensor, context_ids: Tensor, target_ids: Tensor, grid: tuple[int, int, int], mask_index: int
    ) -> Tensor:
        """context (B, Kc, D) at context_ids -> prediction (B, Kt, D) at target_ids (B, Kt)."""
        x = self.predictor_embed(context)
        queries = self.mask_tokens[mask_index].repeat(*target_ids.shape, 1)
        x, ids = torch.cat((x, queries), dim=1), torch.cat((context_ids, target_ids), dim=1)
        order = ids.argsort(dim=1)
        ids = torch.stack([ids[i, row] for i, row in enumerate(order)])
        x = torch.stack([x[i, row] for i, row in enumerate(order)])
        x = self.predictor_norm(run_blocks(self.predictor_blocks, x, grid, ids, self.recompute))
        back = order.argsort(dim=1)
        x = torch.stack([x[i, row] for i, row in enumerate(back)])
        return self.predictor_proj(x[:, context.shape[1] :])
