"""What a planner may do: a box of actions, frozen axes, balls around zero, and values that a schedule forces.

All of it is one closed set for each step, and `Bounds.project` moves actions to the nearest point of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jepa.config import ConfigError

# What is left of x (..., K) under each norm when it is drawn towards 0, from whole (t = 1) to nothing (t = 0). These
# minimise the distance to x plus a multiple of the norm, so clipping them to a box gives the minimiser there.
_DRAWN = {
    "l1": lambda x, t: x.sign() * (x.abs() - (1 - t) * x.abs().amax(-1, keepdim=True)).clamp(min=0),
    "l2": lambda x, t: t * x,
    "linf": lambda x, t: x.sign() * torch.minimum(x.abs(), t * x.abs().amax(-1, keepdim=True)),
}
_ORDER = {"l1": 1, "l2": 2, "linf": torch.inf}
_HALVINGS = 60  # of the interval of t: past double precision, so that where nothing need be drawn t ends as 1 exactly


@dataclass(frozen=True)
class Ball:
    """The actions whose numbers on `axes` have a `norm` (l1, l2 or linf) of at most `radius`, in the action's units."""

    axes: tuple[int, ...]
    radius: float
    norm: str = "l2"

    def __post_init__(self) -> None:
        if self.norm not in _ORDER:
            raise ConfigError(f"a ball's norm is one of {', '.join(_ORDER)}, not '{self.norm}'")
        if not self.radius > 0:
            raise ConfigError(f"a ball needs a radius above 0, got {self.radius}")


@dataclass(frozen=True)
class Schedule:
    """`axis` is held at `values[h]` in step h, and at the last of them in all steps after; None leaves it free.

    `(0.2,)` pins an axis; `(None, None, 1.0)` closes a gripper from step 2 on. What is forced may lie outside the box.
    """

    axis: int
    values: tuple[float | None, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ConfigError(f"the schedule of axis {self.axis} needs at least one value")

    def at(self, step: int) -> float | None:
        """The value that is forced in this step; None where none is."""
        return self.values[min(step, len(self.values) - 1)]


@dataclass(frozen=True)
class Bounds:
    """The box of actions: low and high (A), in the action's own units; `frozen` axes are held at 0.

    Raises:
        ConfigError: the box is crossed or endless, an axis is not the action's, balls share an axis, or no action
            satisfies all.
    """

    low: Tensor
    high: Tensor
    frozen: tuple[int, ...] = ()
    balls: tuple[Ball, ...] = ()
    schedules: tuple[Schedule, ...] = ()

    def __post_init__(self) -> None:
        alike = self.low.shape == self.high.shape and self.low.ndim == 1
        if not alike or not bool(((self.low <= self.high) & (self.high - self.low).isfinite()).all()):
            raise ConfigError(f"bounds need finite low ≤ high of one shape (A); got {self.low} and {self.high}")
        in_balls = [axis for ball in self.balls for axis in ball.axes]
        named = (*self.frozen, *in_balls, *(schedule.axis for schedule in self.schedules))
        if wrong := [axis for axis in named if not 0 <= axis < len(self.low)]:
            raise ConfigError(f"bounds: there is no axis {wrong[0]} in actions of {len(self.low)} numbers")
        if len(set(in_balls)) < len(in_balls):
            raise ConfigError(f"bounds: an axis may be in one ball only, got {in_balls}")
        longest = max([1, *(len(schedule.values) for schedule in self.schedules)])
        smallest = self.low.new_zeros(1, len(self.low)).clamp(*self.limits(longest))
        for ball in self.balls:
            if bool((_norm(smallest, ball) > ball.radius).any()):
                raise ConfigError(f"bounds: no action of the box and the schedules lies in {ball}")

    @property
    def scale(self) -> Tensor:
        """(A) half the width of the box, 0 on frozen axes: the unit of a planner's exploration noise."""
        return self._thaw((self.high - self.low) / 2)

    def to(self, device: torch.device | str) -> "Bounds":
        """The same bounds on `device`."""
        return replace(self, low=self.low.to(device), high=self.high.to(device))

    def clip(self, actions: Tensor) -> Tensor:
        """Actions (..., A) moved into the box alone."""
        return self._thaw(torch.minimum(torch.maximum(actions, self.low), self.high))

    def limits(self, horizon: int) -> tuple[Tensor, Tensor]:
        """Lowest and highest action (H, A) of each step, by box, frozen axes and schedules."""
        low, high = (self._thaw(side).repeat(horizon, 1) for side in (self.low, self.high))
        for schedule in self.schedules:
            for step in range(horizon):
                if (value := schedule.at(step)) is not None:
                    low[step, schedule.axis] = high[step, schedule.axis] = value
        return low, high

    def project(self, actions: Tensor) -> Tensor:
        """The nearest allowed actions (..., H, A) in Euclidean distance; those that are allowed do not change."""
        low, high = self.limits(actions.shape[-2])
        projected = torch.minimum(torch.maximum(actions, low), high)
        for ball in self.balls:
            axes = list(ball.axes)
            projected[..., axes] = _into_ball(actions[..., axes], low[:, axes], high[:, axes], ball)
        return projected

    def later(self, steps: int) -> "Bounds":
        """The bounds `steps` steps on, for a loop that plans anew: schedules count from the first step planned."""
        moved = [replace(s, values=s.values[min(steps, len(s.values) - 1) :]) for s in self.schedules]
        return replace(self, schedules=tuple(moved))

    def _thaw(self, values: Tensor) -> Tensor:
        free = torch.ones_like(self.low)
        free[list(self.frozen)] = 0.0
        return values * free


@dataclass(frozen=True)
class BoundsConfig:
    """`Bounds` by keys of a preset; without any they are the robot's own limits and the task's frozen axes."""

    low: tuple[float | None, ...] = ()  # (A), in the action's own units; None, or no list, is the robot's own
    high: tuple[float | None, ...] = ()
    frozen: tuple[int, ...] | None = None  # instead of the task's; [] frees every axis
    balls: list[Ball] = field(default_factory=list)
    schedules: list[Schedule] = field(default_factory=list)

    def within(self, limit: Tensor, own: Tensor, frozen: Sequence[int]) -> Bounds:
        """The bounds of a robot that carries out at most ±`limit` (A).

        Args:
            own: (A), half the width of the box that is not given. frozen: the task's.

        Raises:
            ConfigError: a side has another width or leads past the limit; and what `Bounds` refuses.
        """
        low, high = _side("low", self.low, -own, limit), _side("high", self.high, own, limit)
        axes = frozen if self.frozen is None else self.frozen
        return Bounds(low, high, tuple(axes), tuple(self.balls), tuple(self.schedules))


def vjepa2_ac_bounds(maxnorm: float = 0.05, pins: dict[int, float] | None = None, close_from: int = -1) -> Bounds:
    """The action set of V-JEPA 2-AC's planner (arXiv 2506.09985, §3.2, and its code) for 7-D end-effector actions.

    Args:
        maxnorm: metres; it clips x, y and z each, whatever its name says. The gripper is clipped to ±0.75.
        pins: values of axes that are not searched.
        close_from: the step from which the gripper's action is +1; -1 leaves it free.
    """
    high = torch.tensor([maxnorm] * 3 + [0.0] * 3 + [0.75])
    schedules = [Schedule(axis, (value,)) for axis, value in (pins or {}).items()]
    if close_from >= 0:
        schedules.append(Schedule(6, (None,) * close_from + (1.0,)))
    return Bounds(-high, high, frozen=(3, 4, 5), schedules=tuple(schedules))


def _side(name: str, given: Sequence[float | None], own: Tensor, limit: Tensor) -> Tensor:
    """One side (A) of a box as a config gives it, in part or not at all; `own` elsewhere."""
    if not given:
        return own
    if len(given) != len(own):
        raise ConfigError(f"bounds.{name} has {len(given)} numbers; an action has {len(own)}")
    side = torch.stack([own[a] if value is None else own.new_tensor(value) for a, value in enumerate(given)])
    if bool((side.abs() > limit).any()):
        raise ConfigError(f"bounds.{name} is {side.tolist()}; the robot carries out ±{limit.tolist()} at most")
    return side


def _norm(actions: Tensor, ball: Ball) -> Tensor:
    return torch.linalg.vector_norm(actions[..., list(ball.axes)], ord=_ORDER[ball.norm], dim=-1)


def _into_ball(x: Tensor, low: Tensor, high: Tensor, ball: Ball) -> Tensor:
    """The point of box ∩ ball nearest to x (..., H, K): its norm falls with t, so halving finds the t that fits."""

    def drawn(t: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(_DRAWN[ball.norm](x, t), low), high)

    def fits(t: Tensor) -> Tensor:
        return torch.linalg.vector_norm(drawn(t), ord=_ORDER[ball.norm], dim=-1, keepdim=True) <= ball.radius

    inside, outside = x.new_zeros(*x.shape[:-1], 1), x.new_ones(*x.shape[:-1], 1)
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        fit = fits(middle)
        inside, outside = torch.where(fit, middle, inside), torch.where(fit, outside, middle)
    return drawn(inside)
