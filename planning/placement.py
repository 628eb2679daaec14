"""Where encoder and world model compute while they plan, and how precisely.

Only what they compute is rounded: poses stay as they are (see `jepa.pose`), and features are fp32 again before a goal
reads them, so that energies and all that a planner makes of them are too.
"""

import copy
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from jepa.config import ConfigError
from jepa.models.encoder import encode_frames
from jepa.worlds.base import WorldModel

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
"""Names as in training -> what autocast rounds to."""


def check_placement(device: str, precision: str = "fp32") -> None:
    """Raise ConfigError for a device that is not there or an unknown precision; warn of bf16 on a CPU without it."""
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"device '{device}' is not cpu, or cuda where torch finds a GPU")
    if _rounded_to(precision) is not None and device == "cpu":
        from jepa.training import warn_of_slow_bf16  # and with it accelerate, which an agent can do without

        warn_of_slow_bf16("precision")


def rounding(device: str, precision: str) -> dict[str, str]:
    """What rounds a result otherwise than fp32 on a CPU does, for its key: nothing by default."""
    return {k: v for k, v in (("device", device), ("precision", precision)) if v not in ("cpu", "fp32")}


def device_of(module: nn.Module) -> torch.device:
    """Where a module's numbers lie; the CPU where it has none."""
    return next(chain(module.parameters(), module.buffers()), torch.empty(0)).device


def tokens_of(encoder: nn.Module, frames: Tensor, precision: str = "fp32") -> Tensor:
    """`encode_frames` of frames (B, T, C, h, w) that lie anywhere, where the encoder lies: (B, T, N, D) fp32."""
    device = device_of(encoder)
    return by_autocast(encode_frames, device, precision)(encoder, frames.to(device))


def lowered(world: WorldModel, precision: str) -> WorldModel:
    """A world of the same weights that observes and imagines in `precision`; its features are fp32 all the same.

    Raises ConfigError for an unknown precision.
    """
    if _rounded_to(precision) is None:
        return world
    low: Any = copy.copy(world)  # the caller's own computes as it did
    low.observe, low.step = (by_autocast(call, device_of(world), precision) for call in (world.observe, world.step))
    low.features = lambda state: world.features(state).float()
    return low


def by_autocast(call: Callable, device: torch.device, precision: str) -> Callable:
    """`call` as it is for fp32, else under autocast on `device`. Raises ConfigError for an unknown precision."""
    low = _rounded_to(precision)
    return call if low is None else torch.autocast(device.type, low)(call)


def _rounded_to(precision: str) -> torch.dtype | None:
    if precision not in PRECISIONS:
        raise ConfigError(f"precision '{precision}' is not one of {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]
