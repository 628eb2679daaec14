"""Questions that any video answers by itself: clips turned, swapped, sped up or panned by a coin, and what was done.

Each function takes frames (B, T, 3, h, w) uint8 and coins (B) in [0, 1), and gives the frames that are shown and the
class (B) int64 of each clip. A coin decides everything: its class first, then, by what is left of it, where to cut.
Cuts in time fall between tubelets of two frames.
"""

import torch
from torch import Tensor

from jepa.data.transforms import resize
from jepa.probes.kinds.base import ProbeError

TUBELET = 2  # frames; cuts at its multiples
WINDOW = (3, 4)  # share of the side that a panning window shows


def two(coins: Tensor) -> Tensor:
    """The classes (B) int64 of `arrow`, `order` and `speed`: 1 is what was changed."""
    return (coins < 0.5).long()


def four(coins: Tensor) -> Tensor:
    """The classes (B) int64 of `direction`."""
    return (coins * 4).long()


def arrow(frames: Tensor, coins: Tensor) -> tuple[Tensor, Tensor]:
    """Arrow of time: 1 is played backwards."""
    classes = two(coins)
    return _where(classes, frames.flip(1), frames), classes


def order(frames: Tensor, coins: Tensor) -> tuple[Tensor, Tensor]:
    """Temporal order: 1 shows its second half first.

    The jump in the middle is part of what can be seen: features of single frames in any order cannot tell.
    """
    half = _half(frames)
    classes = two(coins)
    return _where(classes, frames.roll(-half, 1), frames), classes


def speed(frames: Tensor, coins: Tensor) -> tuple[Tensor, Tensor]:
    """Speed: 1 shows every second frame, 0 as many frames (T / 2) in a row, from anywhere in the clip."""
    shown = _half(frames)
    classes, rest = two(coins), coins * 2 % 1
    step = 1 + classes
    starts = frames.shape[1] - step * (shown - 1)  # how many first frames leave room
    first = (rest * starts).long()
    ids = first[:, None] + step[:, None] * torch.arange(shown)
    return frames[torch.arange(len(frames))[:, None], ids], classes


def direction(frames: Tensor, coins: Tensor) -> tuple[Tensor, Tensor]:
    """Direction of motion: a window of 3/4 of the side slides from edge to edge: 0 left, 1 right, 2 up, 3 down.

    Across its way it stands anywhere. Where the camera stands still, the place of the first frame tells as well.
    """
    classes, rest = four(coins), coins * 4 % 1
    length, side = frames.shape[1], frames.shape[-1]
    window = side * WINDOW[0] // WINDOW[1]
    away = torch.linspace(0, side - window, length).round().long().tolist()
    out = torch.empty_like(frames)
    for clip, kind, where, shown in zip(frames, classes.tolist(), rest.tolist(), out, strict=True):
        across = int(where * (side - window + 1))
        along = away if kind % 2 else away[::-1]
        boxes = [(across, x) if kind < 2 else (x, across) for x in along]
        cut = [
            frame[:, top : top + window, left : left + window] for frame, (top, left) in zip(clip, boxes, strict=True)
        ]
        shown.copy_(resize(torch.stack(cut), side, side))
    return out, classes


def _half(frames: Tensor) -> int:
    half = frames.shape[1] // 2 // TUBELET * TUBELET
    if not half:
        raise ProbeError(f"clips of {frames.shape[1]} frames have no halves of a tubelet; raise frames to 4 or more")
    return half


def _where(classes: Tensor, ones: Tensor, zeros: Tensor) -> Tensor:
    return torch.where(classes.bool()[:, None, None, None, None], ones, zeros)
