"""Multi-block masks (V-JEPA, arXiv 2404.08471, §3.2): a union of space-time blocks is predicted, the rest is seen."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from jepa.config import ConfigError
from jepa.masks.base import Masks

Grid = tuple[int, int, int]
DRAWS = 100
"""Unions drawn for one clip before a mask config that hides everything is given up."""


@dataclass(frozen=True)
class BlockConfig:
    """One mask config: `blocks` blocks a clip, of one size a step, drawn from the ranges (low, high).

    `spatial_scale` is a fraction of the cells of a time step, `temporal_scale` of the time steps, `aspect_ratio` is
    height over width. The context has visible tokens of the first `max_temporal_keep` of the time steps only, and at
    most `max_keep`. `context_keep` and `target_keep`, fractions of all tokens, fix Kc and Kt under `size: fixed`.
    `full_complement` predicts all that is not context, `pred_full_complement` shows all that is not target.
    `inv_block` swaps the sets in the end: blocks are seen, and what is said of the context holds for the prediction.
    """

    blocks: int = 8
    spatial_scale: tuple[float, float] = (0.15, 0.15)
    temporal_scale: tuple[float, float] = (1.0, 1.0)
    aspect_ratio: tuple[float, float] = (0.75, 1.5)
    context_keep: float = 0.25
    target_keep: float = 0.50
    max_temporal_keep: float = 1.0
    max_keep: int | None = None
    full_complement: bool = False
    pred_full_complement: bool = False
    inv_block: bool = False


@dataclass(frozen=True)
class Config:
    """Short-range (many small tubes) and long-range (few large tubes) masks, and `more` by name; all on every clip.

    `size` says how many tokens are kept: `fixed` the shares that a mask config names (static shapes, no dependence on
    the batch), `batch_min` as many as the poorest clip of the batch has, as the reference does. `cut` says which:
    `random` ones, or by `tail` the first in raster order, the reference's way, which favours early time steps.
    """

    short: BlockConfig | None = field(default_factory=BlockConfig)
    long: BlockConfig | None = field(
        default_factory=lambda: BlockConfig(2, (0.70, 0.70), context_keep=0.06, target_keep=0.70)
    )
    more: dict[str, BlockConfig] = field(default_factory=dict)
    size: str = "fixed"
    cut: str = "random"


class MultiBlock:
    """Block size from (seed, step, mask config), positions and cut from (seed, epoch, sample id, mask config).

    Unions of blocks differ in size from clip to clip, and a batch needs one Kc and one Kt: what is over is cut, and is
    neither seen nor predicted. Where `fixed` sizes ask for more than a side has, tokens of the other make up for it.
    """

    def __init__(self, config: Config, seed: int) -> None:
        self._blocks = _numbered(config)
        self.configs = len(self._blocks)
        self.names = tuple(name for _, name, _ in self._blocks)
        self._size, self._cut, self._seed = config.size, config.cut, seed

    def sample(self, grid: Grid, sample_ids: Tensor, epochs: Tensor, step: int) -> list[Masks]:
        """One `Masks` per mask config. Raises ConfigError where `batch_min` finds no token left to see."""
        # Key words beyond the sample count from 1: a trailing 0 would give the very stream that crops are drawn from.
        clips = list(zip(epochs.tolist(), sample_ids.tolist(), strict=True))
        masks = []
        for number, name, config in self._blocks:
            block = block_size(grid, config, torch.Generator().manual_seed(_mix(self._seed, step, number)))
            early = max(1, int(grid[0] * config.max_temporal_keep)) * grid[1] * grid[2]
            rngs = [np.random.default_rng((self._seed, epoch, sample, 1 + number)) for epoch, sample in clips]
            hidden = [self._hide(grid, block, early, config.blocks, f"masks.{name}", rng) for rng in rngs]
            sizes = self._sizes(hidden, early, config)
            pairs = [self._pick(h, sizes, early, rng) for h, rng in zip(hidden, rngs, strict=True)]
            context, target = (torch.from_numpy(np.stack(s)).to(sample_ids.device) for s in zip(*pairs, strict=True))
            masks.append(Masks(target, context) if config.inv_block else Masks(context, target))
        return masks

    def _hide(self, grid: Grid, block: Grid, early: int, blocks: int, key: str, rng: np.random.Generator) -> np.ndarray:
        """Which tokens (N) of a clip the encoder may not see: those in blocks, and all but the `early` ones."""
        t, h, w = block
        room = np.array((grid[1] - h, grid[2] - w, grid[0] - t))
        for _ in range(DRAWS):
            hidden = np.zeros(grid, dtype=bool)
            for top, left, start in rng.integers(0, room, (blocks, 3), endpoint=True).tolist():
                hidden[start : start + t, top : top + h, left : left + w] = True
            hidden.reshape(-1)[early:] = True
            if self._size == "fixed" or not hidden.all():
                return hidden.reshape(-1)
        raise ConfigError(
            f"{key}: {blocks} blocks of {t}×{h}×{w} tokens hid all of {'×'.join(map(str, grid))} in each of {DRAWS} "
            "draws: use fewer or smaller blocks, or masks.size=fixed"
        )

    def _sizes(self, hidden: list[np.ndarray], early: int, config: BlockConfig) -> tuple[int, int]:
        """Kc and Kt, before any swap, where these tokens are hidden in the clips of a batch."""
        tokens = hidden[0].size
        if self._size == "fixed":
            context, target = (max(1, int(share * tokens)) for share in (config.context_keep, config.target_keep))
        else:
            counts = [int(np.count_nonzero(h)) for h in hidden]
            context, target = tokens - max(counts), min(counts)
        context = min(context, early, config.max_keep or tokens)
        if config.full_complement:
            target = tokens - context
        if config.pred_full_complement:
            context = tokens - target
        return context, target

    def _pick(
        self, hidden: np.ndarray, sizes: tuple[int, int], early: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of one clip: of all tokens in one line, visible first, the front is context and the back is target."""
        context, target = sizes
        order = rng.permutation(hidden.size) if self._cut == "random" else np.arange(hidden.size)
        behind = hidden[order]
        seen, rest = order[~behind], order[behind]
        if self._cut == "tail":
            rest = rest[::-1]  # the back of the line holds the first in raster order
        if context > seen.size:  # tokens that make up for it must lie in the time that may be seen, too
            fill = np.flatnonzero(rest < early)[: context - seen.size]
            rest = np.concatenate((rest[fill], np.delete(rest, fill)))
        line = np.concatenate((seen, rest))
        return np.sort(line[:context]), np.sort(line[hidden.size - target :])


def block_size(grid: Grid, config: BlockConfig, generator: torch.Generator) -> Grid:
    """Time steps, height and width of the blocks in tokens, drawn as the reference draws them (three uniforms)."""
    time, height, width = grid
    ranges = (config.temporal_scale, config.spatial_scale, config.aspect_ratio)  # in this order
    duration, scale, aspect = (a + torch.rand(1, generator=generator).item() * (b - a) for a, b in ranges)
    area = int(height * width * scale)
    rows, columns = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    return max(1, int(time * duration)), max(1, min(height, rows)), max(1, min(width, columns))


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _numbered(config: Config) -> list[tuple[int, str, BlockConfig]]:
    """Number, key and mask config; one keeps its number, and so its masks, where another is left out."""
    more = ((f"more.{name}", block) for name, block in config.more.items())
    named = enumerate([("short", config.short), ("long", config.long), *more])
    return [(number, name, block) for number, (name, block) in named if block is not None]


def build(config: Config, seed: int) -> MultiBlock:
    """Build the sampler; raises ConfigError for an unknown policy, or a mask config that cannot be had."""
    for key, choices in (("size", ("fixed", "batch_min")), ("cut", ("random", "tail"))):
        if (value := getattr(config, key)) not in choices:
            raise ConfigError(f"masks.{key} '{value}' is not one of {', '.join(choices)}")
    sampler = MultiBlock(config, seed)
    if not sampler.configs:
        raise ConfigError("masks: short and long are null and more is empty; leave at least one mask config")
    for _, name, block in _numbered(config):
        _check(f"masks.{name}", block)
    return sampler


def _check(key: str, b: BlockConfig) -> None:
    for name, top in (("spatial_scale", 1.0), ("temporal_scale", 1.0), ("aspect_ratio", float("inf"))):
        low, high = getattr(b, name)
        if not 0 < low <= high <= top:
            raise ConfigError(f"{key}.{name}: [{low}, {high}] must be [low, high] with 0 < low <= high <= {top}")
    shares = (b.context_keep, b.target_keep)
    limited = b.max_keep is not None or b.max_temporal_keep < 1
    wrong = {
        "blocks must be at least 1": b.blocks < 1,
        "max_temporal_keep must be above 0 and at most 1": not 0 < b.max_temporal_keep <= 1,
        "max_keep must be at least 1, or null": b.max_keep is not None and b.max_keep < 1,
        "context_keep and target_keep must be above 0 and below 1": not all(0 < share < 1 for share in shares),
        "context_keep + target_keep must be at most 1 in sum, or ask for a complement": sum(shares) > 1
        and not (b.full_complement or b.pred_full_complement),
        "pred_full_complement goes with none of full_complement, max_keep, max_temporal_keep": b.pred_full_complement
        and (b.full_complement or limited),
    }
    for sentence in (sentence for sentence, holds in wrong.items() if holds):
        raise ConfigError(f"{key}: {sentence}")
