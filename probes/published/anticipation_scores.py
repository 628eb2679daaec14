"""What anticipation scores: recall of verb, noun and action with intervals, the reference's best heads, hard clips."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from jepa.probes.annotations.base import UNSEEN
from jepa.probes.kinds.anticipation import NAMES, class_means
from jepa.probes.kinds.base import ProbeError
from jepa.probes.published import hardest, scores
from jepa.probes.published.anticipation_clips import ActionClips
from jepa.probes.published.benchmark_row import HARDEST, PREDICTIONS
from jepa.probes.published.labelled import Side
from jepa.status import write_json


def summary(said: dict[str, Tensor], side: Side, seed: int) -> dict[str, Any]:
    """Scores by verb, noun and action of what a head said (B, C) of a side, over the clips whose class train shows.

    Raises:
        ProbeError: train shows no class of any of these clips.
    """
    found, unseen = {}, {}
    for name, (probabilities, labels, known) in _known(said, side).items():
        unseen[name] = int((~known).sum())
        if not known.any():
            raise ProbeError(f"no test clip has a {name} of the training set")
        groups = side.groups.numpy()[known]
        found[name] = scores.summary(probabilities, labels, groups, np.random.default_rng(seed))
    return {"test": found, "not_in_train": unseen}


def write(
    said: dict[str, Tensor],
    side: Side,
    rows: Tensor,
    classes: dict[str, tuple[str, ...]],
    clips: ActionClips,
    out: Path,
) -> None:
    """Put what a head said into `out`, with a table of classes and the clips it is most surely wrong about.

    `rows` (B) number the clips of the side among all test clips; `clips` loads them.
    """
    tensors = {**said, "labels": side.labels, "groups": side.groups, "rows": rows}
    save_file({name: value.contiguous() for name, value in tensors.items()}, out / PREDICTIONS)
    parts = _known(said, side)
    tables = {name: scores.per_class(*part[:2], classes[name]) for name, part in parts.items()}
    write_json(out / "per_class.json", tables)
    probabilities, labels, known = parts["action"]
    places = np.flatnonzero(known)
    found = hardest.hardest(probabilities, labels, classes["action"], HARDEST)
    names = side.names
    videos = [names[i] for i in places]
    hardest.write(found, videos, lambda i: clips(0, int(places[i]))[0], out, "hardest")


def best_on_test(together: Callable[[list[float]], dict[int, float]], hit: Tensor, labels: Tensor) -> dict[str, Any]:
    """The reference's way: for each figure the head that is best at it on test. It is optimistic.

    Hits (n, 3, B) of the heads here, labels (B, 3); `together` makes of a figure of each those of all ranks' heads.
    """
    best: dict[str, Any] = {}
    for i, name in enumerate(NAMES):
        right = hit[:, i, labels[:, i] != UNSEEN].float()
        figures = {"recall_at_5": class_means(hit[:, i], labels[:, i]), "top5": right.mean(1).nan_to_num(0.0).tolist()}
        best[name] = {figure: max(together(values).values()) for figure, values in figures.items()}
    return best


def _known(said: dict[str, Tensor], side: Side) -> dict[str, tuple[NDArray, NDArray, NDArray]]:
    """By name: what was said of the clips whose class train shows (n, C), their labels (n), and which they are (B)."""
    found = {}
    for i, name in enumerate(NAMES):
        labels = side.labels[:, i].numpy()
        known = labels != UNSEEN
        found[name] = (said[name].numpy()[known], labels[known], known)
    return found
