"""What an objective promises (a module whose forward is the loss, because launchers hook `__call__`), and shares."""

from typing import Protocol

from torch import Tensor

from jepa.data.clip import Clip
from jepa.models.encoder import Encoder


class Objective(Protocol):
    """A trainable: `forward(clip) -> (loss, {name: scalar})`; `after_step(step, total)` follows each real step.

    Among the scalars are `loss_mask{i}`, `cosine` of targets and predictions, and `feature_std` of the targets.
    `target_encoder` is the one to keep: an average over the run, or `encoder` itself. One that is an average has also
    `ema: EMA`. `unused_parameters` says whether a step may leave trained parameters out: processes must then look.
    """

    encoder: Encoder
    unused_parameters: bool

    @property
    def target_encoder(self) -> Encoder: ...

    def __call__(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]: ...

    def after_step(self, step: int, total: int) -> None: ...


def take_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """tokens (B, t·N, D) at ids (B, K) -> (B, K, D)."""
    return tokens.gather(1, ids[..., None].expand(-1, -1, tokens.shape[-1]))


def feature_std(features: Tensor) -> Tensor:
    """Standard deviation of each channel of features (B, K, D) over clips and tokens, mean over channels: a scalar.

    Take it before a LayerNorm without affine, which blows up what is left of collapsed features.
    """
    flat = features.detach().float().flatten(0, 1)  # (B·K, D)
    return ((flat - flat.mean(0)).norm(dim=0) / len(flat) ** 0.5).mean()  # five times as fast as `std`


def ema_momentum(start: float, end: float, step: int, total: int) -> float:
    """Momentum of the average after update `step` of `total`: linear, `end` at the last."""
    return start + (end - start) * (step / total)
