"""The action-conditioned predictor of V-JEPA 2-AC (arXiv 2506.09985, §3.1): tokens, actions, states -> next tokens."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from jepa.models.layers import Block, check_heads, init_weights
from jepa.models.rope import rope_table


@dataclass(frozen=True)
class ACPredictorConfig:
    """Shape of the predictor; the defaults are the paper's.

    A frame sees all frames before it; with `markov` only itself, and no history need be kept.
    `residual` predicts the change of the tokens through a zero-initialised projection, so that training starts at
    copy-last-frame, adds a learned absolute position and adds the action and state to every patch token.
    """

    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    rope_layout: str = "interleaved"
    markov: bool = False
    residual: bool = False


class ACPredictor(nn.Module):
    """Frame-causal transformer over [action, state, N patches] per frame."""

    def __init__(
        self,
        config: ACPredictorConfig,
        embed_dim: int,
        action_dim: int,
        state_dim: int,
        grid: tuple[int, int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_heads(config.width, config.heads, "action-conditioned predictor")
        self.config, self.grid = config, grid
        self.predictor_embed = nn.Linear(embed_dim, config.width)
        self.action_encoder = nn.Linear(action_dim, config.width)
        self.state_encoder = nn.Linear(state_dim, config.width)
        self.predictor_blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.predictor_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.predictor_proj = nn.Linear(config.width, embed_dim)
        if config.residual:
            self.position = nn.Parameter(sincos_2d(grid, config.width))
            self.condition = nn.Linear(action_dim + state_dim, config.width)
        init_weights(self, self.predictor_blocks, generator)
        if config.residual:
            nn.init.zeros_(self.predictor_proj.weight)
            # As loud as the position table: at 0.02 the action would be a whisper that is long ignored.
            nn.init.normal_(self.condition.weight, std=(action_dim + state_dim) ** -0.5, generator=generator)

    def forward(self, x: Tensor, actions: Tensor, states: Tensor) -> Tensor:
        """x (B,T,N,D), actions (B,T,A), states (B,T,S) -> (B,T,N,D): frame t holds the tokens of frame t+1."""
        if self.config.markov and x.shape[1] > 1:  # frames do not see each other: time is batch
            batch = x.shape[0]
            folded = (rearrange(part, "b t ... -> (b t) 1 ...") for part in (x, actions, states))
            return rearrange(self(*folded), "(b t) 1 n d -> b t n d", b=batch)
        frames = x.shape[1]
        patches = self.predictor_embed(x)
        if self.config.residual:
            condition = self.condition(torch.cat((actions, states), dim=-1))
            patches = patches + self.position + condition[:, :, None]
        extra = torch.stack((self.action_encoder(actions), self.state_encoder(states)), dim=2)
        h = rearrange(torch.cat((extra, patches), dim=2), "b t n p -> b (t n) p")
        rope, mask = self._rope(frames, x.device), self._mask(frames, x.device)
        for block in self.predictor_blocks:
            h = block(h, rope, mask)
        h = rearrange(h, "b (t n) p -> b t n p", t=frames)[:, :, extra.shape[2] :]
        out = self.predictor_proj(self.predictor_norm(h))
        return x + out if self.config.residual else out

    def _rope(self, frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Patches turn by (frame, row, column); action and state tokens by (frame, 0, 0)."""
        rows, columns = self.grid
        cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))  # (N, 2)
        cells = torch.cat((torch.zeros(2, 2, dtype=cells.dtype), cells))
        time = repeat(torch.arange(frames), "t -> t n 1", n=len(cells))
        place = torch.cat((time, repeat(cells, "n c -> t n c", t=frames)), dim=-1)
        head_dim = self.config.width // self.config.heads
        return rope_table(rearrange(place, "t n c -> 1 (t n) c").to(device), head_dim, self.config.rope_layout)

    def _mask(self, frames: int, device: torch.device) -> Tensor | None:
        """True where a token may look: its own frame and all before it."""
        if frames == 1:
            return None
        time = torch.arange(frames, device=device).repeat_interleave(2 + self.grid[0] * self.grid[1])
        return time[:, None] >= time[None]


def sincos_2d(grid: tuple[int, int], width: int) -> Tensor:
    """Sine-cosine table (N, width) of a grid of rows × columns; periods from 2 to about 4 grid lengths."""
    quarter = -(-width // 4)
    frequency = math.pi / torch.logspace(0, math.log2(4 * max(grid)), quarter, base=2)
    rows, columns = (torch.arange(n)[:, None] * frequency for n in grid)
    rows, columns = (torch.cat((angle.sin(), angle.cos()), dim=-1) for angle in (rows, columns))
    table = torch.cat((repeat(rows, "r c -> (r k) c", k=grid[1]), repeat(columns, "k c -> (r k) c", r=grid[0])), dim=-1)
    return table[:, :width].clone()
