"""Goals: what a future costs, as a distance to goal images over the imagined steps, and sub-goals to reach in turn."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa.config import ConfigError
from jepa.worlds.base import Future, Goal

# Features (..., N, D) and a goal's -> differences (..., N, D or 1), to be averaged over both.
_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": lambda x, goal: (x - goal).abs(),
    "l2": lambda x, goal: (x - goal).norm(dim=-1, keepdim=True),
    "cosine": lambda x, goal: 1 - F.cosine_similarity(x, goal, dim=-1)[..., None],
}
# Cost (B, S, H) of every imagined step -> (B, S).
_STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "last": lambda cost: cost[..., -1],
    "sum": lambda cost: cost.sum(-1),
    "min": lambda cost: cost.amin(-1),
}


@dataclass(frozen=True)
class GoalConfig:
    """distance of each token, averaged over tokens: l1 (mean over channels), l2 (their Euclidean norm) or cosine.

    steps: which imagined steps count: the last, the sum of all (get there soon), the min (pass by).
    blur: in tokens, the standard deviation of a Gaussian over the token grid, which features go through before they
    are compared. Without it the energy is flat where nothing overlaps what the goal shows, and moving out of sight
    lowers it as much as coming half way does; about 1 draws from afar.
    The default is V-JEPA 2-AC's energy (arXiv 2506.09985, §3.2).
    """

    distance: str = "l1"
    steps: str = "last"
    blur: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.blur < math.inf:
            raise ConfigError(f"goal.blur is 0 (none) or a number of tokens, not {self.blur}")
        for key, choices in (("distance", _DISTANCES), ("steps", _STEPS)):
            if (value := getattr(self, key)) not in choices:
                raise ConfigError(f"goal.{key} is one of {', '.join(choices)}, not '{value}'")

    def __call__(self, features: Tensor, weights: Tensor | None = None) -> "FeatureGoal":
        """The goal to look like `features` (B, N, D)."""
        return FeatureGoal(features, self, weights)


class FeatureGoal:
    """Look like the goal image.

    Args:
        features: (B, N, D) of the goal image, in the scale of `world.features`.
        weights: (N) or (B, N), how much each token counts, at least 0; 0 masks a region out, which then does not reach
            its neighbours through the blur either. Only ratios matter.
    """

    def __init__(self, features: Tensor, config: GoalConfig | None = None, weights: Tensor | None = None):
        config = config or GoalConfig()
        self._kernel = _gaussian(features, config.blur) if config.blur else None
        self.features = features
        self.last_only = config.steps == "last"
        self._distance, self._over_steps = _DISTANCES[config.distance], _STEPS[config.steps]
        self._weights = None
        if weights is not None:
            share = weights.to(features).expand(features.shape[:2])
            if bool((share < 0).any() or (share.sum(-1) == 0).any()):
                raise ConfigError("a goal's token weights are at least 0, and not all 0")
            self._weights = (share / share.mean(-1, keepdim=True))[:, None, None, :, None]  # (B, 1, 1, N, 1)
            if self._kernel is not None:
                ones, weighed = (_smooth(self._kernel, w) for w in (torch.ones_like(self._weights), self._weights))
                self._level = torch.where(self._weights > 0, ones / weighed, 0.0)  # where nothing counts it may be 0/0
        self._goal = self._blurred(features[:, None, None])

    def __call__(self, future: Future) -> Tensor:
        """Cost (B, S)."""
        imagined = future.features[:, :, -1:] if self.last_only else future.features  # (B, S, H, N, D)
        apart = self._distance(self._blurred(imagined), self._goal)
        if self._weights is not None:
            apart = apart * self._weights
        return self._over_steps(apart.mean((-2, -1)))

    def _blurred(self, features: Tensor) -> Tensor:
        """Features (B, S, H, N, D) after the blur; with weights a normalised convolution: what is masked leaks nowhere.

        Each token counts by its weight in the sums of its neighbours too, and the sums are brought to the level that
        they have where all count alike.
        """
        if self._kernel is None:
            return features
        if self._weights is None:
            return _smooth(self._kernel, features)
        return self._level * _smooth(self._kernel, self._weights * features)


def _smooth(kernel: Tensor, features: Tensor) -> Tensor:
    """Features (..., N, D) of a square grid of tokens, summed over both of its axes by the weights of `kernel`."""
    rows = features.unflatten(-2, (len(kernel), -1))  # (..., h, w, D)
    return torch.einsum("ij,kl,...jld->...ikd", kernel, kernel, rows).flatten(-3, -2)


def _gaussian(features: Tensor, std: float) -> Tensor:
    """(side, side): rows of weights over one axis of the square grid of features (B, N, D); beyond it are zeros."""
    side = math.isqrt(features.shape[-2])
    if side * side != features.shape[-2]:
        raise ConfigError(f"goal.blur needs a square grid of tokens; {features.shape[-2]} are none")
    place = torch.arange(side, device=features.device, dtype=features.dtype)
    kernel = torch.exp(-0.5 * ((place[:, None] - place) / std) ** 2)
    return kernel / kernel.sum(1).amax()


LastStepL1 = GoalConfig()
"""V-JEPA 2-AC's energy: the mean absolute difference of the last imagined features to the goal's (B, N, D)."""

LastStepDistance = GoalConfig(distance="l2")
"""Euclidean distance of the last imagined features to the goal's (B, N, D), for features that are metres."""


class AnyOf:
    """A set of goals: the cost of a future is that of the goal it comes nearest to."""

    def __init__(self, goals: Sequence[Goal]):
        self.goals = tuple(goals)
        self.last_only = all(getattr(goal, "last_only", False) for goal in self.goals)

    def __call__(self, future: Future) -> Tensor:
        """Cost (B, S)."""
        return torch.stack([goal(future) for goal in self.goals]).amin(0)


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


@dataclass(frozen=True)
class SwitchRule:
    """When the next sub-goal begins: where the energy to the current one is below `threshold`, and after so many
    decisions: `patience[g]` for sub-goal g, the last number for all from there on, none to wait for the energy alone.

    The fixed schedules of V-JEPA 2-AC (arXiv 2506.09985, §4) have a threshold of 0.
    """

    threshold: float = 0.0
    patience: tuple[int, ...] = ()


@dataclass(frozen=True)
class SubGoals:
    """Goal images to reach in turn, each row at its own: what a closed loop holds from one decision to the next.

    features: (B, G, N, D), in order; a row with fewer repeats its last. stage (B): the sub-goal that is aimed at, from
    0. spent (B): decisions made with it so far.
    """

    features: Tensor
    stage: Tensor
    spent: Tensor

    @classmethod
    def begin(cls, features: Tensor) -> "SubGoals":
        """All rows at their first sub-goal, before their first decision."""
        zeros = torch.zeros(len(features), dtype=torch.long, device=features.device)
        return cls(features, zeros, zeros)

    @property
    def current(self) -> Tensor:
        """Features (B, N, D) of the sub-goals that are aimed at."""
        return self.features[torch.arange(len(self.stage), device=self.stage.device), self.stage]

    def next(self, seen: Tensor, energy: Callable[[Tensor], Goal], rule: SwitchRule) -> "SubGoals":
        """The sub-goals to plan the coming decision with; call it once before each, and aim at its `current`.

        Args:
            seen: (B, N, D), `world.features` of the state now. A NaN energy never switches.
            energy: turns features (B, N, D) into a goal, such as a `GoalConfig`.
        """
        cost = energy(self.current)(Future(seen[:, None, None], seen.new_zeros(len(seen), 1, 1, 0)))[:, 0]
        over = cost < rule.threshold
        if rule.patience:
            limits = torch.tensor(rule.patience, device=self.spent.device)
            over |= self.spent >= limits[self.stage.clamp(max=len(limits) - 1)]
        over &= self.stage < self.features.shape[1] - 1
        spent = torch.where(over, 0, self.spent) + 1
        return replace(self, stage=self.stage + over.long(), spent=spent)
