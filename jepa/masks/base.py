"""What a mask sampler promises: which tokens the encoder sees and which the predictor fills in."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Masks:
    """Token ids of one mask config: context (B, Kc) is seen, target (B, Kt) is predicted; disjoint, ascending."""

    context: Tensor
    target: Tensor


class MaskSampler(Protocol):
    """Masks as a pure function of what is passed: independent of rank and worker, and of the batch split as well,
    except where the user asks for Kc and Kt to be those of the batch."""

    configs: int
    names: tuple[str, ...]  # of the mask configs, as the user's config calls them

    def sample(self, grid: tuple[int, int, int], sample_ids: Tensor, epochs: Tensor, step: int) -> list[Masks]:
        """One `Masks` per mask config, for the samples (B) seen in the epochs (B) at the training step."""
        ...
