"""The clips that a classifier is most surely wrong about: a list, and a contact sheet to look at."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa.data.clip import Clip
from jepa.data.errors import DataError
from jepa.data.show import contact_sheet, write_png
from jepa.data.transforms import resize

WIDE = 128  # pixels a side of a frame on the sheet
STRIP = 8  # frames of a clip on the sheet


def hardest(probabilities: NDArray, labels: NDArray, names: Sequence[str], count: int) -> list[dict[str, Any]]:
    """The `count` clips of (B, C) whose true class lies furthest behind the best other one, the furthest first.

    Each says its `clip` (0 to B - 1), the `true` and the `predicted` class, the `confidence` in what was predicted, and
    `of_true`, what the true class got. Where few clips are wrong, the least sure of the right follow.
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    rivals = probabilities.copy()
    rivals[rows, labels] = -np.inf
    order = np.argsort(own - rivals.max(1), kind="stable")[:count]
    guess = probabilities.argmax(1)
    return [
        {
            "clip": int(i),
            "true": names[labels[i]],
            "predicted": names[guess[i]],
            "confidence": round(float(probabilities[i, guess[i]]), 4),
            "of_true": round(float(own[i]), 4),
        }
        for i in order
    ]


def write(
    found: Sequence[dict[str, Any]], videos: Sequence[str], frames: Callable[[int], Tensor], out: Path, stem: str
) -> None:
    """Write `stem`.json, the list with each clip's video, and `stem`.png, a strip of frames of each, into `out`.

    `videos` (B) name the clips; `frames(i)` are the frames (T, 3, h, w) uint8 of clip i. A clip that cannot be read is
    in the list, with the reason, and not on the sheet.
    """
    listed, strips, captions = [], [], []
    for one in found:
        entry = one | {"video": videos[one["clip"]]}
        try:
            strips.append(_strip(frames(one["clip"])))
            captions.append(
                f"{one['true']}: taken for {one['predicted']} ({one['confidence']:.2f}, itself {one['of_true']:.2f})"
                if one["true"] != one["predicted"]
                else f"{one['true']}: right, by little ({one['confidence']:.2f})"
            )
        except (DataError, OSError) as error:
            entry["unread"] = str(error)
        listed.append(entry)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{stem}.json").write_text(json.dumps(listed, indent=1, ensure_ascii=False))
    if strips:
        shown, ids = torch.stack(strips), torch.arange(len(strips))
        valid = torch.ones(shown.shape[:2], dtype=torch.bool)
        write_png(out / f"{stem}.png", contact_sheet(Clip(shown, ids, torch.zeros_like(ids), 0, valid), captions))


def _strip(frames: Tensor) -> Tensor:
    """At most STRIP frames at even distances, whole and squeezed to squares: (T, 3, h, w) -> (STRIP, 3, WIDE, WIDE)."""
    chosen = np.linspace(0, len(frames) - 1, STRIP).round().astype(int)
    return resize(frames[torch.from_numpy(chosen)], WIDE, WIDE)
