"""What a data set yields (`Clip`, `Episode`) and what it promises about it (`Spec`)."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Spec:
    """What the data decides: counts, rates, sizes, widths and units. Where videos differ: None.

    `labels` holds the class names of integer per-frame arrays, and under "label" those of whole recordings; `extra`
    the units of other per-frame arrays.
    """

    samples: int = 0
    fps: float | None = None  # frames per second
    width: int | None = None  # pixels
    height: int | None = None  # pixels
    action_dim: int = 0
    state_dim: int = 0
    action_units: tuple[str, ...] = ()
    state_units: tuple[str, ...] = ()
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    extra: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Spec":
        """The inverse of `dataclasses.asdict`; raises KeyError and TypeError where something is missing."""
        given = {f.name: values[f.name] for f in fields(Spec)}
        for name in ("action_units", "state_units"):
            given[name] = tuple(given[name])
        for name in ("labels", "extra"):
            given[name] = {key: tuple(names) for key, names in given[name].items()}
        return Spec(**given)


@dataclass(frozen=True)
class Clip:
    """A batch of sampled clips.

    `actions[:, t]` leads from frame t to frame t+1. `valid` is False where a video was too short and its last
    frame is repeated. `labels` are per-frame arrays by name.
    """

    frames: Tensor  # (B, T, C, h, w) uint8
    sample_id: Tensor  # (B) int64
    epoch: Tensor  # (B) int64, which pass over the data
    step: int  # which batch of the run, from 0
    valid: Tensor  # (B, T) bool
    actions: Tensor | None = None  # (B, T-1, A) float32
    states: Tensor | None = None  # (B, T, S) float32
    labels: dict[str, Tensor] = field(default_factory=dict)  # (B, T, ...); "label" (B), of whole recordings

    def to(self, device: torch.device | str) -> "Clip":
        """The same clip on `device`."""
        return replace(
            self,
            frames=self.frames.to(device),
            sample_id=self.sample_id.to(device),
            epoch=self.epoch.to(device),
            valid=self.valid.to(device),
            actions=None if self.actions is None else self.actions.to(device),
            states=None if self.states is None else self.states.to(device),
            labels={name: value.to(device) for name, value in self.labels.items()},
        )


@dataclass(frozen=True)
class Episode:
    """One whole video, or frames of it at a lower rate, with its arrays: `actions` (T-1, A), the others (T, ...)."""

    frames: Tensor  # (T, C, h, w) uint8
    arrays: dict[str, np.ndarray]
    id: int
