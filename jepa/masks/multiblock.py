"""Multi-block masks (V-JEPA, arXiv 2404.08471, §3.2): the union of full-length tubes is predicted, the rest is seen."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from jepa.config import ConfigError
from jepa.masks.base import Masks


@dataclass(frozen=True)
class BlockConfig:
    """One mask config. `context_keep` and `target_keep` are fractions of all tokens: they fix Kc and Kt."""

    blocks: int = 8
    spatial_scale: float = 0.15
    aspect_ratio: tuple[float, float] = (0.75, 1.5)
    context_keep: float = 0.25
    target_keep: float = 0.50


@dataclass(frozen=True)
class Config:
    """Short-range (many small tubes) and long-range (few large tubes) masks; both on every clip."""

    short: BlockConfig = field(default_factory=BlockConfig)
    long: BlockConfig = field(default_factory=lambda: BlockConfig(2, 0.70, context_keep=0.06, target_keep=0.70))


class MultiBlock:
    """Block size from (seed, step, mask config), positions from (seed, epoch, sample id, mask config).

    The union of blocks differs from clip to clip; a random subset is kept so that Kc and Kt are the same numbers
    for every clip and step (static shapes, and no bias in time: the reference cuts the end of the raster order).
    Where a union leaves fewer tokens than wanted on one side, random tokens of the other side make up for it.
    """

    def __init__(self, config: Config, seed: int) -> None:
        self._blocks = (config.short, config.long)
        self.configs = len(self._blocks)
        self._seed = seed

    def sample(self, grid: tuple[int, int, int], sample_ids: Tensor, epochs: Tensor, step: int) -> list[Masks]:
        # Key words beyond the sample count from 1: a trailing 0 would give the very stream that crops are drawn from.
        masks = []
        for number, config in enumerate(self._blocks):
            sizes = torch.Generator().manual_seed(_mix(self._seed, step, number))
            block = block_size(grid, config, sizes)
            pairs = [
                self._one(grid, block, config, np.random.default_rng((self._seed, int(epoch), int(sample), 1 + number)))
                for sample, epoch in zip(sample_ids, epochs, strict=True)
            ]
            context, target = (torch.from_numpy(np.stack(side)) for side in zip(*pairs, strict=True))
            masks.append(Masks(context.to(sample_ids.device), target.to(sample_ids.device)))
        return masks

    @staticmethod
    def _one(
        grid: tuple[int, int, int], block: tuple[int, int], config: BlockConfig, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        _, height, width = grid
        masked = np.zeros((height, width), dtype=bool)
        for _ in range(config.blocks):
            top = rng.integers(0, height - block[0] + 1)
            left = rng.integers(0, width - block[1] + 1)
            masked[top : top + block[0], left : left + block[1]] = True
        masked = np.broadcast_to(masked, grid).ravel()
        tokens = masked.size
        wanted_context = max(1, int(config.context_keep * tokens))
        wanted_target = max(1, int(config.target_keep * tokens))
        # One random order with visible tokens first: the front is context, the back is target.
        order = rng.permutation(tokens)
        order = order[np.argsort(masked[order], kind="stable")]
        return np.sort(order[:wanted_context]), np.sort(order[tokens - wanted_target :])


def block_size(grid: tuple[int, int, int], config: BlockConfig, generator: torch.Generator) -> tuple[int, int]:
    """Height and width of the tubes in tokens, drawn as the reference draws them (three uniforms, in this order)."""
    _, height, width = grid
    _temporal, _spatial, u = (torch.rand(1, generator=generator).item() for _ in range(3))
    low, high = config.aspect_ratio
    aspect = low + u * (high - low)
    area = int(height * width * config.spatial_scale)
    rows, columns = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    return max(1, min(height, rows)), max(1, min(width, columns))


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def build(config: Config, seed: int) -> MultiBlock:
    """Build the sampler; raises ConfigError where a mask config keeps more than all tokens."""
    for name, block in (("short", config.short), ("long", config.long)):
        if block.context_keep + block.target_keep > 1 or block.context_keep <= 0 or block.target_keep <= 0:
            raise ConfigError(f"masks.{name}: context_keep + target_keep must be positive and at most 1 in sum")
    return MultiBlock(config, seed)
