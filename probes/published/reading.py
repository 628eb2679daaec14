"""One pass over the videos of a side with heads that are trained: what each has right, and what one of them says."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from jepa.engines.base import processes
from jepa.probes.published.benchmark_heads import RankHeads
from jepa.probes.published.encode import Batch, only_read
from jepa.probes.published.labelled import Side

Source = Callable[[Iterator[Batch]], Iterator[tuple[Tensor, Tensor]]]
"""Minibatches of rows -> (rows, tokens (B, V, K, D)), the same on all ranks: `Tokens` or `Stored`."""


def read_side(
    heads: RankHeads,
    source: Source,
    side: Side,
    batch: int,
    classes: int,
    accelerator: Accelerator,
    chosen: int = -1,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[dict[int, float], Tensor, Tensor]:
    """Accuracy of every head that is left, the rows (n) that could be read, and what head `chosen` says (n, C) of them.

    What a head says is the mean over views of its softmax; one that has diverged has nothing right. All ranks call
    this together and get the same; without `chosen` there are zero rows of it.
    """
    right, kept, said = torch.zeros(len(heads.own)), [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, classes)]
    for rows, tokens in source((0, part) for part in torch.arange(len(side)).split(batch)):
        seen, readable = only_read(rows, tokens)
        found = _probabilities(heads, readable)
        if found is not None:
            right += _hits(found, side.labels[seen])
        kept.append(seen)
        if chosen >= 0:
            own = torch.zeros(len(seen), classes)
            if found is not None and chosen in heads.own:
                own = found[heads.own.index(chosen)]
            # The other ranks add zeros: only one of them has this head.
            said.append(accelerator.reduce(own.to(accelerator.device)).cpu() if processes() > 1 else own)
        progress(int(rows[-1]) + 1)
    rows = torch.cat(kept)
    return heads.together((right / max(1, len(rows))).tolist()), rows, torch.cat(said)


def unread(out: Path, accelerator: Accelerator) -> dict[str, dict[str, str]]:
    """By side the videos that a rank could not read, now or before the run was cut off, and why.

    From the ledgers `unread-SIDE-RANK.json` of `Tokens` in `out`. All ranks call this together.
    """
    accelerator.wait_for_everyone()  # until all have written theirs
    found: dict[str, dict[str, str]] = {}
    for path in sorted(out.glob("unread-*-*.json")):
        found.setdefault(path.stem.split("-")[1], {}).update(json.loads(path.read_text()))
    return found


def _probabilities(heads: RankHeads, tokens: Tensor) -> Tensor | None:
    """Tokens (B, V, K, D) -> (heads, B, C) on the CPU; None without heads or rows."""
    if not len(tokens) or not heads.own:
        return None
    total: Any = 0.0
    for view in tokens.unbind(1):
        total = total + heads.predict(view).softmax(-1)
    return (total / tokens.shape[1]).cpu()


def _hits(probabilities: Tensor, labels: Tensor) -> Tensor:
    """How many rows each head (n, B, C) has right; none where its numbers are not finite."""
    finite = probabilities.isfinite().all(-1)
    return ((probabilities.argmax(-1) == labels) & finite).float().sum(1)
