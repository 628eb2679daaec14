"""What an objective promises: a module whose forward is the loss, because launchers hook `__call__`."""

from typing import Protocol

from torch import Tensor, nn

from jepa.data.clip import Clip


class Objective(Protocol):
    """A trainable: `forward(clip) -> (loss, {name: scalar})`; `after_step(step, total)` follows each real step."""

    encoder: nn.Module
    target_encoder: nn.Module

    def __call__(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]: ...

    def after_step(self, step: int, total: int) -> None: ...
