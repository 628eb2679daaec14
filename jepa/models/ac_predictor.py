"""The action-conditioned predictor of V-JEPA 2-AC (arXiv 2506.09985, §3.1): tokens, actions, states -> next tokens."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from jepa.config import ConfigError
from jepa.models.ac_block import FrameBlock
from jepa.models.checkpointing import check_mode, run_block
from jepa.models.layers import check_heads, init_weights
from jepa.models.rope import RopeTable, rope_table

CONDITIONING = ("token", "adaln", "feature")
EXTRINSICS_DIM = 6  # numbers of a camera's pose: xyz and Euler angles, as in DROID

Cache = dict[str, Tensor]
"""What is kept of the frames so far, each with leading dim B: `time` (B), the number of the next frame, and the keys
and values (B, M·P, heads, hd) of every block for the M frames that can still be seen. Empty: there were none.
`ahead.…` is of the next frame: see `ACPredictor.look_ahead`."""


@dataclass(frozen=True)
class ACPredictorConfig:
    """Shape of the predictor; the defaults are the paper's.

    A frame sees all frames before it, or with `window` > 0 that many, itself included; `markov` says `window: 1`.
    `conditioning` is how action, state and camera get in: as a `token` each, in front of the patches; by `adaln`,
    scales, shifts and gates of every block; or as a `feature` that is added to every patch token.
    Without `proprio` the robot's state is not read; with `extrinsics` the camera's pose is.
    `residual` predicts the change of the tokens through a zero-initialised projection, so that training starts at
    copy-last-frame, adds a learned absolute position, and beside tokens adds the action and state to every patch token.
    `checkpointing` trades time for memory in training: none, selective or full.

    Raises ConfigError for a value outside its range.
    """

    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    rope_layout: str = "interleaved"
    markov: bool = False
    residual: bool = False
    window: int = 0
    conditioning: str = "token"
    proprio: bool = True
    extrinsics: bool = False
    checkpointing: str = "none"

    def __post_init__(self) -> None:
        if self.window < 0 or (self.markov and self.window > 1):
            raise ConfigError(f"predictor.window {self.window}: 0 (all frames) or more, and 1 where markov is true")
        if self.conditioning not in CONDITIONING:
            raise ConfigError(f"predictor.conditioning '{self.conditioning}' is not one of {', '.join(CONDITIONING)}")
        if self.markov or self.window == 1:  # two names of one thing: `markov` is what older runs say
            object.__setattr__(self, "window", 1)
            object.__setattr__(self, "markov", True)


class ACPredictor(nn.Module):
    """Frame-causal transformer over [action, state, camera, N patches] per frame."""

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
        check_mode(config.checkpointing)
        self.config, self.grid = config, grid
        self.predictor_embed = nn.Linear(embed_dim, config.width)
        self.action_encoder = nn.Linear(action_dim, config.width)
        self.state_encoder = nn.Linear(state_dim, config.width) if config.proprio else None
        self.extrinsics_encoder = nn.Linear(EXTRINSICS_DIM, config.width) if config.extrinsics else None
        adaptive = config.conditioning == "adaln"
        self.predictor_blocks = nn.ModuleList(
            FrameBlock(config.width, config.heads, config.mlp_ratio, config.window, adaptive)
            for _ in range(config.depth)
        )
        self.predictor_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.predictor_proj = nn.Linear(config.width, embed_dim)
        self.position = nn.Parameter(sincos_2d(grid, config.width)) if config.residual else None
        inputs = sum(encoder.in_features for encoder in self._encoders())
        beside = config.residual and config.conditioning == "token"
        self.condition = nn.Linear(inputs, config.width) if beside else None
        init_weights(self, self.predictor_blocks, generator)
        # As loud as the position table: at 0.02 the action would be a whisper that is long ignored.
        loud = [self.condition] if self.condition else self._encoders() if config.conditioning == "feature" else []
        if config.residual:
            nn.init.zeros_(self.predictor_proj.weight)
        for linear in loud:
            nn.init.normal_(linear.weight, std=inputs**-0.5, generator=generator)
        for block in self.predictor_blocks if adaptive else []:
            nn.init.zeros_(block.modulation.weight)

    def forward(
        self,
        x: Tensor,
        actions: Tensor,
        states: Tensor | None = None,
        extrinsics: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Any:
        """x (B,T,N,D), actions (B,T,A), states (B,T,S), extrinsics (B,T,6) -> (B,T,N,D).

        Frame t of the output holds the tokens of frame t+1. What the predictor does not read is left out. Any number
        of frames will do: positions are worked out, there is no table to outgrow.

        With a `cache` the frames follow those of the cache, and the answer is (output, cache of all): equal to a pass
        over all of them, for a frame's keys and values depend on no later one.
        """
        out, kept = self._extend({} if cache is None else cache, x, actions, states, extrinsics)
        return out if cache is None else (out, kept)

    def _extend(self, cache: Cache, x: Tensor, *given: Tensor | None) -> tuple[Tensor, Cache]:
        inputs = [part for part in given if part is not None]
        if self.config.window == 1 and x.shape[1] > 1:  # frames do not see each other: time is batch
            batch = x.shape[0]
            out, _ = self._extend({}, *(rearrange(part, "b t ... -> (b t) 1 ...") for part in (x, *inputs)))
            return rearrange(out, "(b t) 1 n d -> b t n d", b=batch), {}
        frames = x.shape[1]
        encoded = [encode(part) for encode, part in zip(self._encoders(), inputs, strict=True)]  # each (B, F, W)
        rope = self._rope(cache, frames, x.device)
        h, condition = self._embed(cache, x, inputs, encoded)
        kept: Cache = {}
        for layer, block in enumerate(self.predictor_blocks):
            past = (cache[f"keys.{layer}"], cache[f"values.{layer}"]) if f"keys.{layer}" in cache else ()
            if layer == 0 and "ahead.queries" in cache:
                h, k, v = self._first_block(cache, h, rope, past)
            else:
                h, k, v = run_block(block, self.config.checkpointing, h, rope, frames, past, condition)
            kept[f"keys.{layer}"], kept[f"values.{layer}"] = k, v
        h = rearrange(h, "b (t n) p -> b t n p", t=frames)[:, :, self._extra :]
        out = self.predictor_proj(self.predictor_norm(h))
        return x + out if self.config.residual else out, self._forget(kept, cache, x.shape[0], frames, x.device)

    def look_ahead(self, cache: Cache, x: Tensor) -> Cache:
        """`cache` with all that can be known of the next frame, tokens x (B,N,D), before its action is.

        These are the patches of the first block, its queries, keys and values, which any number of actions then share.
        Nothing where a patch token depends on the action from the beginning.
        """
        if self.config.conditioning != "token" or self.config.residual:
            return cache
        first, patches = self.predictor_blocks[0], self.predictor_embed(x)
        cos, sin = self._rope(cache, 1, x.device)
        qkv = first.project(first.norm1(patches), (cos[:, self._extra :], sin[:, self._extra :]))
        names = ("ahead.queries", "ahead.keys", "ahead.values")
        return cache | {"ahead.patches": patches} | dict(zip(names, qkv, strict=True))

    def _encoders(self) -> list[nn.Linear]:
        return [e for e in (self.action_encoder, self.state_encoder, self.extrinsics_encoder) if e is not None]

    @property
    def _extra(self) -> int:
        """Tokens in front of the patches of a frame."""
        return len(self._encoders()) if self.config.conditioning == "token" else 0

    def _embed(
        self, cache: Cache, x: Tensor, inputs: list[Tensor], encoded: list[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, F·P, W) of the first block, and the condition (B, F, W) of those that are adaptive."""
        known = cache.get("ahead.patches")
        patches = self.predictor_embed(x) if known is None else known[:, None]
        if self.position is not None:
            patches = patches + self.position
        if self.condition is not None:
            patches = patches + self.condition(torch.cat(inputs, dim=-1))[:, :, None]
        if self.config.conditioning == "token":
            return torch.cat((torch.stack(encoded, dim=2), patches), dim=2).flatten(1, 2), None
        condition = torch.stack(encoded).sum(0)
        if self.config.conditioning == "adaln":
            return patches.flatten(1, 2), condition
        return (patches + condition[:, :, None]).flatten(1, 2), None

    def _first_block(self, cache: Cache, h: Tensor, rope: RopeTable, past: tuple) -> tuple[Tensor, Tensor, Tensor]:
        """The first block on one frame whose patches were looked at ahead."""
        first, (cos, sin), extra = self.predictor_blocks[0], rope, self._extra
        own = first.project(first.norm1(h[:, :extra]), (cos[:, :extra], sin[:, :extra]))
        shared = (cache["ahead.queries"], cache["ahead.keys"], cache["ahead.values"])
        q, k, v = (torch.cat(parts, dim=1) for parts in zip(own, shared, strict=True))
        return first.attend(h, (q, k, v), 1, past)

    def _forget(self, kept: Cache, cache: Cache, batch: int, frames: int, device: torch.device) -> Cache:
        """What of keys and values the next frame will see, and its number."""
        if self.config.window == 1:
            return {}
        if self.config.window:
            seen = (self.config.window - 1) * (self._extra + self.grid[0] * self.grid[1])
            kept = {name: values[:, -seen:] for name, values in kept.items()}
        time = cache["time"] if "time" in cache else torch.zeros(batch, dtype=torch.int64, device=device)
        return kept | {"time": time + frames}

    def _rope(self, cache: Cache, frames: int, device: torch.device) -> RopeTable:
        """Patches turn by (frame, row, column); the tokens in front of them by (frame, 0, 0).

        The frame's number comes from the first row: all rows of a cache have seen as many frames.
        """
        rows, columns = self.grid
        cells = torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))  # (N, 2)
        cells = torch.cat((cells.new_zeros(self._extra, 2), cells))
        time = torch.arange(frames, device=device)
        time = time + cache["time"][0] if "time" in cache else time
        time = repeat(time, "t -> t n 1", n=len(cells))
        place = torch.cat((time, repeat(cells, "n c -> t n c", t=frames)), dim=-1)
        head_dim = self.config.width // self.config.heads
        return rope_table(rearrange(place, "t n c -> 1 (t n) c"), head_dim, self.config.rope_layout)


def sincos_2d(grid: tuple[int, int], width: int) -> Tensor:
    """Sine-cosine table (N, width) of a grid of rows × columns; periods from 2 to about 4 grid lengths."""
    quarter = -(-width // 4)
    frequency = math.pi / torch.logspace(0, math.log2(4 * max(grid)), quarter, base=2)
    rows, columns = (torch.arange(n)[:, None] * frequency for n in grid)
    rows, columns = (torch.cat((angle.sin(), angle.cos()), dim=-1) for angle in (rows, columns))
    table = torch.cat((repeat(rows, "r c -> (r k) c", k=grid[1]), repeat(columns, "k c -> (r k) c", r=grid[0])), dim=-1)
    return table[:, :width].clone()
