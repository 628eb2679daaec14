"""Goals: callables that say what a future costs; lower is better."""

import torch
from torch import Tensor

from jepa.worlds.base import Future


class LastStepL1:
    """Mean absolute difference between the last imagined features and the goal's: V-JEPA 2-AC's energy."""

    last_only = True

    def __init__(self, features: Tensor):
        self.features = features  # (B, N, D)

    def __call__(self, future: Future) -> Tensor:
        """Cost (B, S)."""
        return (future.features[:, :, -1] - self.features[:, None]).abs().mean(dim=(-2, -1))


class LastStepDistance:
    """Euclidean distance of the last imagined features to the goal's, for features that are metres."""

    last_only = True

    def __init__(self, features: Tensor):
        self.features = features  # (B, N, D)

    def __call__(self, future: Future) -> Tensor:
        """Cost (B, S)."""
        return (future.features[:, :, -1] - self.features[:, None]).norm(dim=-1).mean(dim=-1)


class LastStepPush:
    """The oracle's cost of a push: the object's distance to its target, plus a little for not being behind it.

    Features are (B, 1, 5): the object's xy and the end-effector's xyz, in metres. The object's distance alone is
    flat until contact, so a short horizon would never find the object: a ceiling needs the second term.
    """

    last_only = True
    WEIGHT = 0.3
    BEHIND = (0.045, 0.03)  # m: behind the object's centre as seen from the target, and above the table

    def __init__(self, features: Tensor):
        self.target = features[:, None, 0, :2]  # (B, 1, 2)

    def __call__(self, future: Future) -> Tensor:
        """Cost (B, S)."""
        item, hand = future.features[:, :, -1, 0].split((2, 3), dim=-1)
        left = self.target - item
        distance = left.norm(dim=-1, keepdim=True)
        behind = item - self.BEHIND[0] * left / distance.clamp(min=1e-6)
        wanted = torch.cat([behind, torch.full_like(distance, self.BEHIND[1])], dim=-1)
        return distance[..., 0] + self.WEIGHT * (hand - wanted).norm(dim=-1)
