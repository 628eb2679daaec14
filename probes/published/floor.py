"""What every benchmark table stands on: the commonest class, and kNN on few clips of raw pixels and random features."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.progress import Progress
from torch import Tensor

from jepa.engines.base import rank
from jepa.models.encoder import Encoder
from jepa.models.image_encoder import ImageEncoder
from jepa.probes.features import THUMBNAIL, thumbnails
from jepa.probes.kinds import knn
from jepa.probes.kinds.base import Features, ProbeError
from jepa.probes.metrics import accuracy, balanced_accuracy, bootstrap_difference, class_sums
from jepa.probes.published.encode import Tokens, encode_views, is_read
from jepa.probes.published.labelled import Clips, Labelled, Side
from jepa.probes.published.views import Views

PIXEL_FRAMES = 4  # of a clip, for the row of raw pixels
OURS, PIXELS = "pretrained", "pixels"

Encoders = dict[str, Encoder | ImageEncoder]


def measure(
    data: Labelled,
    encoders: Encoders,
    shown: Views,
    out: Path,
    accelerator: Accelerator,
    bar: Progress,
    *,
    clips: int,
    batch: int,
    seed: int,
    workers: int,
) -> list[dict[str, Any]]:
    """kNN for each encoder and for raw pixels, and the commonest class; one clip of a video, its beginning, for all.

    The neighbours are at most `clips` training videos, drawn by `seed`. Each row has its accuracy on test, and the
    95 % interval over groups of `pretrained` minus itself.

    Raises:
        ProbeError: no video of a side can be decoded.
    """
    one = replace(shown, segments=1, views=1, augment="none")
    train = _joined(data.fit, data.validation)
    drawn = torch.from_numpy(np.random.default_rng(seed).permutation(len(train))[:clips]).sort().values
    sides = {"train": train.rows(drawn), "test": data.test}
    pooled = {}
    for name, side in sides.items():
        source = _source(side, encoders, one, out / f"unread-{name}-{rank()}.json", accelerator, workers)
        line = bar.add_task(f"kNN: encode {name}", total=len(side), figures="")
        parts = []
        for rows, values in source((0, rows) for rows in torch.arange(len(side)).split(batch)):
            parts.append((rows, values.cpu()))
            bar.advance(line, len(rows))
        values = torch.cat([v for _, v in parts])
        read = is_read(values)
        if not read.any():
            raise ProbeError(f"no {name} video could be decoded: {out}/unread-{name}-*.json says why")
        pooled[name] = (values[read].float(), side.rows(read))
    return _rows(pooled, [*encoders, PIXELS], [e.embed_dim for e in encoders.values()], len(data.classes), seed)


def _source(
    side: Side, encoders: Encoders, shown: Views, ledger: Path, accelerator: Accelerator, workers: int
) -> Tokens:
    for encoder in encoders.values():
        encoder.to(accelerator.device)

    def encode(clips: Tensor) -> Tensor:  # (B, 1, 1, T, 3, h, w) -> (B, widths of all, then pixels)
        step = max(1, shown.frames // PIXEL_FRAMES)
        small = thumbnails(clips[:, 0, 0, ::step][:, :PIXEL_FRAMES]).half().to(accelerator.device)
        return torch.cat(
            [*(encode_views(e, (), clips)[:, 0].float().mean(1).half() for e in encoders.values()), small], 1
        )

    pixels = min(PIXEL_FRAMES, len(range(0, shown.frames, max(1, shown.frames // PIXEL_FRAMES))))
    width = sum(e.embed_dim for e in encoders.values()) + pixels * 3 * THUMBNAIL**2
    load = Clips(side, shown, seed=0, training=False)
    return Tokens(load, encode, (width,), side.names, ledger, workers, accelerator)


def _rows(
    pooled: dict[str, tuple[Tensor, Side]], names: list[str], widths: list[int], classes: int, seed: int
) -> list[dict[str, Any]]:
    (seen, train), (unseen, test) = pooled["train"], pooled["test"]
    rest = seen.shape[1] - sum(widths)
    truth, groups = test.labels.numpy(), test.groups.numpy()
    predicted: dict[str, np.ndarray] = {}
    for name, a, b in zip(names, seen.split([*widths, rest], 1), unseen.split([*widths, rest], 1), strict=True):
        probe = knn.build(knn.Config(), np.random.default_rng(seed))
        probe.fit(Features(a, train.groups), train.labels)
        predicted[name] = probe.predict(Features(b, test.groups)).numpy()
    predicted["commonest class"] = np.full(len(truth), int(train.labels.bincount().argmax()))
    sums = {name: class_sums(guess, truth, classes) for name, guess in predicted.items()}
    rows = []
    for name in predicted:
        row = {
            "row": name,
            "top1": float(accuracy(sums[name].sum(0))),
            "balanced_accuracy": float(balanced_accuracy(sums[name].sum(0))),
            "train_videos": len(train),
        }
        if name != OURS and OURS in sums:
            generator = np.random.default_rng(seed)
            low, high = bootstrap_difference([(sums[OURS], groups)], [(sums[name], groups)], "accuracy", generator)
            row["ours_minus_this95"] = [low, high] if math.isfinite(low) else [None, None]  # of a single group
        rows.append(row)
    return rows


def _joined(a: Side, b: Side) -> Side:
    return Side((*a.footage, *b.footage), torch.cat((a.labels, b.labels)), torch.cat((a.groups, b.groups)))
