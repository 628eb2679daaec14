"""The exponential moving average that a target encoder is: always in fp32, whatever the model computes in."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class EMA:
    """Target parameters that follow online ones, by (target, online) pairs of modules of one shape.

    Alone, a target's own parameters are averaged. They cannot be where they are of low precision, for bf16 rounds
    (1 - 0.99925) of a difference away, or where a process holds only shards of them: an engine then calls `keep`.
    """

    def __init__(self, *pairs: tuple[nn.Module, nn.Module]) -> None:
        self.targets = [parameter for target, _ in pairs for parameter in target.parameters()]
        self.online = [parameter for _, online in pairs for parameter in online.parameters()]
        self.keep(self.targets, self.online)

    def keep(
        self, values: Sequence[Tensor], sources: Sequence[Tensor], publish: Callable[[], None] = lambda: None
    ) -> None:
        """From now on average fp32 `values` towards `sources` of their shapes; `publish` brings them to the targets."""
        self._values, self._sources, self._publish = list(values), list(sources), publish

    @torch.no_grad()
    def distance(self) -> tuple[float, float]:
        """Sums of squares of (online - target) and of online, over the values that this process averages."""
        pairs = list(zip(self._values, self._sources, strict=True))
        far = sum(float((source.float() - value).square().sum()) for value, source in pairs)
        return far, sum(float(source.float().square().sum()) for _, source in pairs)

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """target <- momentum · target + (1 - momentum) · online, all parameters in one fused call."""
        torch._foreach_lerp_(self._values, [source.float() for source in self._sources], 1.0 - momentum)
        self._publish()
