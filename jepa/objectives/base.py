"""What an objective promises (a module whose forward is the loss, because launchers hook `__call__`), and shares."""

from typing import Protocol

from torch import Tensor

from jepa.data.clip import Clip
from jepa.models.encoder import Encoder


class Objective(Protocol):
    """A trainable: `forward(clip) -> (loss, {name: scalar})`; `after_step(step, total)` follows each real step.

    `target_encoder` is the one to keep: an average over the run, or `encoder` itself.
    """

    encoder: Encoder

    @property
    def target_encoder(self) -> Encoder: ...

    def __call__(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]: ...

    def after_step(self, step: int, total: int) -> None: ...


def take_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """tokens (B, t·N, D) at ids (B, K) -> (B, K, D)."""
    return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))


def ema_momentum(start: float, end: float, step: int, total: int) -> float:
    """Momentum of the average after update `step` of `total`: linear, `end` at the last."""
    return start + (end - start) * (step / total)
