"""What the heads of a published protocol are trained on and how, and whether an encoder can take it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from jepa.config import ConfigError
from jepa.models.encoder import Encoder
from jepa.models.image_encoder import ImageEncoder
from jepa.probes.published.views import Views
from jepa.probes.sweep import Setting


@dataclass(frozen=True)
class Protocol:
    """`settings` are the heads, each a pooler of `depth` and `heads`; for the rest see `BenchmarkConfig`."""

    shown: Views
    levels: tuple[int, ...]
    depth: int
    heads: int
    settings: tuple[Setting, ...]
    epochs: int
    batch: int
    halving: int
    cache: str
    seed: int
    workers: int
    checkpoint_every: int


def need_at_least(least: int, config: object, keys: Sequence[str]) -> None:
    """Raises ConfigError for the first of these keys of a config whose value is smaller."""
    for key in keys:
        if getattr(config, key) < least:
            raise ConfigError(f"{key} {getattr(config, key):g}: must be at least {least}")


def check_grid(lr: Sequence[float], weight_decay: Sequence[float]) -> None:
    """Raises ConfigError where these make no head, or one that cannot learn."""
    if not lr or not weight_decay:
        raise ConfigError(f"lr {list(lr)}, weight_decay {list(weight_decay)}: give at least one of each")
    if min(lr) <= 0 or min(weight_decay) < 0:
        raise ConfigError(f"lr {list(lr)}, weight_decay {list(weight_decay)}: above 0, and from 0")


def check_heads(width: int, depth: int, heads: int) -> None:
    """Raises ConfigError where tokens of `width` channels cannot be read by such a pooler."""
    if depth < 1 or heads < 1 or width % heads:
        raise ConfigError(f"depth {depth} must be at least 1, heads {heads} divide {width}")


def grid(lr: tuple[float, ...], weight_decay: tuple[float, ...], start_lr: float, warmup: float) -> tuple[Setting, ...]:
    """Every pair of a learning rate and a weight decay; `warmup` is a share of the training."""
    return tuple(Setting(a, b, start_lr, warmup) for a, b in product(lr, weight_decay))


def tokens_of_a_view(encoder: Encoder | ImageEncoder, protocol: Protocol) -> int:
    """How many tokens all segments and levels of a view have together.

    Raises:
        ConfigError: frames, levels or heads that do not fit the encoder.
    """
    shown, levels = protocol.shown, protocol.levels
    try:
        tokens = math.prod(encoder.grid(shown.frames, shown.size, shown.size))
    except ValueError as error:
        raise ConfigError(f"frames {shown.frames}, size {shown.size}: {error}") from error
    if levels and isinstance(encoder, ImageEncoder):
        raise ConfigError(f"levels {list(levels)}: an image encoder is read at its end alone; leave them out")
    if isinstance(encoder, Encoder) and not all(0 <= level < encoder.config.depth for level in levels):
        raise ConfigError(f"levels {list(levels)}: the encoder's blocks are numbered 0 to {encoder.config.depth - 1}")
    check_heads(encoder.embed_dim, protocol.depth, protocol.heads)
    return max(1, len(levels)) * shown.segments * tokens
